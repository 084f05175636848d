"""svdecode: go further in the direction in which a short fine-tuning moved the model, by one calibrated strength.

Idea: what tuning raised is right more often than not; the move of scores, by the softmax's slope, is added again.
Equation: z + mu delta, delta = p (D - E_p D), D = z - z' of the tuned and the base model, p = softmax(z); only tokens
    with p >= a max p move, others are refused or left; mu by `calibrate` on labelled text that tuning has not seen.
Assumes: the tuned model, and its base: adapters that can be taken off, the setting `base`, or `BesideBase`; one
    tokenizer.
Leaks: it amplifies what tuning changed, and with it memorised text; mu is one number from private labels, unbounded
    for the plain mean. Its counts are those of every text of its length.
Fails: a base that differs in nothing steers nowhere; calibrated on the tuning's own text, mu is too large.
Source: Hu, Han et al. 2025, arXiv 2509.15888, algorithms 1 and 2; delta points towards the task here, so that mu > 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, TypeVar, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.core.low_rank import LowRankLinear, adapters_off
from fedsim.components.decoder._drawing import draw, likeliest, nucleus
from fedsim.components.decoder._second_model import second_model
from fedsim.components.decoder._steering import Mode, SteeredPlaces, joined, places, steered, strength_of
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Condition, Decoder, GenerationContext, Writing
from fedsim.core.losses import IGNORED
from fedsim.core.masks import without_dropout
from fedsim.core.past import Past
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, Event

AT_ONCE = 8


class SteeringConfig(Config):
    """Settings of the scores."""

    strength: float | Literal["calibrate"] = Field(
        examples=[0.0],
        description="mu; calibrate: fitted to texts of clients that were not trained on; 0: the tuned model alone, "
        "without its base, to compare with",
    )
    base: str = Field(
        default="",
        description="model before its tuning: a model's name, or the folder of a checkpoint; empty: the model with its "
        "adapters off",
    )
    mode: Mode = Field(default="mean", description="how places are combined in `calibrate`; the paper: mean")
    confidence: float = Field(
        default=0.1, ge=0, le=1, description="share a of the largest odds, from which tokens move"
    )
    outside: Literal["refused", "left"] = Field(
        default="refused", description="tokens below that are never written (the paper), or keep their scores"
    )
    sign: Literal["task", "paper"] = Field(
        default="task", description="where delta points; paper: back to the base, so that mu is negative"
    )

    @property
    def towards_task(self) -> float:
        """The strength along the direction of the tuning.

        Raises:
            FedsimError: it is to be calibrated, and there were no texts to do so.
        """
        if self.strength == "calibrate":
            raise FedsimError(
                "decoder 'svdecode': strength = 'calibrate' needs texts of clients, which a scenario's table "
                "[generation] gives. Set strength to a number, as from `calibrate`."
            )
        return self.strength if self.sign == "task" else -self.strength


class SvdecodeConfig(SteeringConfig):
    """Settings of steering vector decoding."""

    temperature: float = Field(default=0.0, ge=0, description="T of draws from the steered scores; 0: the likeliest")
    top_k: int | None = Field(default=None, ge=1, description="likeliest tokens that draws come from; absent: all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="share p of the probability that draws come from")

    @model_validator(mode="after")
    def _check(self) -> Self:
        unread = self.model_fields_set & {"top_k", "top_p"}
        if self.temperature == 0 and unread:
            raise ValueError(
                f"at temperature 0 nothing is drawn, so that '{min(unread)}' has no meaning. Leave it out, or raise "
                "the temperature."
            )
        return self


SteeringConfigT = TypeVar("SteeringConfigT", bound=SteeringConfig)


class BesideBase(nn.Module):
    """A tuned model beside the one that it was tuned from: tokens (B, T) to the scores of the tuned one (B, T, V)."""

    def __init__(self, tuned: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.tuned, self.base = tuned, base

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tuned model's scores."""
        return self.tuned(tokens)


@dataclass(frozen=True)
class Steered(Writing):
    """Texts, and what the base has read of them: its keys and values are others than the tuned model's.

    Attributes:
        models: the tuned model of each row with its base, the same for all.
    """

    models: tuple[nn.Module, ...]
    base_past: Past = field(default_factory=Past, kw_only=True, compare=False, repr=False)


@final
@component(
    "svdecode",
    summary="decoder: further along the direction of a fine-tuning",
    paper="2509.15888",
    fidelity="reproduction",
    paper_steps=(
        (
            "steering vector of the difference of both models",
            "Svdecode.step",
            "test_a_steered_text_is_that_of_the_steered_scores_token_by_token",
        ),
        ("strength from labelled text", "calibrate", "test_costs_are_those_of_one_pass_and_calibration_lowers_them"),
        ("only sure tokens move", "costs", "test_costs_move_the_sure_tokens_alone_and_refuse_none"),
        (
            "top-k and top-p of the steered scores",
            "Svdecode.step",
            "test_of_top_k_the_likeliest_alone_are_drawn_by_their_steered_odds",
        ),
    ),
)
class Svdecode(Decoder[SvdecodeConfig, Steered]):
    """Writes one token a step by the scores of two models on the same text."""

    counts: ClassVar[frozenset[str]] = frozenset({"rows"})

    def fitted(self, model: nn.Module, texts: Batch) -> Self:
        """Return the decoder with the strength that fits texts, where it is to be calibrated.

        Raises:
            FedsimError: there are no texts, or see `calibrate`.
        """
        fitted = fitted_config(self.config, model, texts)
        return self if fitted is self.config else type(self)(fitted).named(self.name)

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Steered:
        """Return the prompts.

        Raises:
            FedsimError: the strength is to be calibrated, and the decoder was not fitted; or the base of the settings
                cannot be loaded.
        """
        _ = self.config.towards_task
        return Steered(condition.prompts, (with_base(model, self.config),) * len(condition))

    def step(self, model: nn.Module, state: Steered, context: GenerationContext) -> tuple[Steered, list[Event]]:
        """Write a token behind each row.

        Raises:
            CannotContinue: scores of some rows are no numbers.
            FedsimError: the strength is not 0, and the model has no base.
        """
        scores = self._scores(state.models[0], state).double()
        if self.config.temperature == 0:
            chosen = scores.argmax(-1).tolist()
        else:
            odds = (scores / self.config.temperature).softmax(-1)
            odds = odds if self.config.top_k is None else likeliest(odds, self.config.top_k)
            chosen = draw(nucleus(odds, self.config.top_p), context.generators)
        rows = 1 if self.config.strength == 0 else 2
        return state.extended([[token] for token in chosen]), [Event(rows=rows)] * len(state)

    def _scores(self, model: nn.Module, state: Steered) -> Tensor:
        """Return the steered scores behind each row; the only place where the models are asked."""
        config, by_base = self.config, replace(state, past=state.base_past)
        tuned = base = self.next_scores(model.tuned if isinstance(model, BesideBase) else model, state)
        if config.strength != 0 and isinstance(model, BesideBase):
            base = self.next_scores(model.base, by_base)
        elif config.strength != 0:
            _check_adapters(model)
            with adapters_off(model):
                base = self.next_scores(model, by_base)
        _check_sizes(tuned, base)
        return steered(tuned, base, config.towards_task, config.confidence, refuses=config.outside == "refused")


class SteeredModel(nn.Module):
    """A tuned model with its base as one model: tokens (B, T) to the steered scores (B, T, V).

    Args:
        model: with adapters, or `BesideBase`.
        config: of the steering.
    """

    def __init__(self, model: nn.Module, config: SteeringConfig) -> None:
        super().__init__()
        self.model, self._config = model, config

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the steered scores.

        Raises:
            FedsimError: the model has no base.
        """
        config = self._config
        tuned = self.model(tokens)
        base = tuned if config.strength == 0 else _base_scores(self.model, tokens)
        _check_sizes(tuned, base)
        return steered(tuned, base, config.towards_task, config.confidence, refuses=config.outside == "refused")


def with_base(model: nn.Module, config: SteeringConfig) -> nn.Module:
    """Return a model beside the base that the settings name; the model itself where they name none, or need none.

    Raises:
        FedsimError: there is no such base.
    """
    if not config.base or config.strength == 0 or isinstance(model, BesideBase):
        return model
    with torch.no_grad():
        vocabulary = model(torch.tensor([[0]])).shape[-1]
    return BesideBase(model, second_model(config.base, vocabulary))


def _base_scores(model: nn.Module, tokens: Tensor) -> Tensor:
    if isinstance(model, BesideBase):
        return model.base(tokens)
    _check_adapters(model)
    with adapters_off(model):
        return model(tokens)


def fitted_config(config: SteeringConfigT, model: nn.Module, texts: Batch) -> SteeringConfigT:
    """Return settings with the strength that fits texts, where it is to be calibrated.

    Raises:
        FedsimError: there are no texts, or see `calibrate`.
    """
    if config.strength != "calibrate":
        return config
    if not len(texts):
        raise FedsimError(
            "decoder 'svdecode': strength = 'calibrate' needs texts of clients that no round trained on, and all "
            "were. Lower federation.rounds, or set the strength to a number."
        )
    return config.model_copy(update={"strength": calibrate(model, texts, config, config.mode)})


def calibrate(model: nn.Module, examples: Batch, config: SteeringConfig, mode: Mode = "mean") -> float:
    """Return the strength mu that fits labelled text, which the tuning must not have seen.

    Args:
        model: tuned, with adapters or in `BesideBase`, or its base is in the settings. It is left as it was.
        examples: tokens (N, T), and the tokens that follow, -100 where none counts.
        config: confidence, what happens outside, and the sign; its strength is not read.
        mode: how single places are combined; see `fedsim.components.decoder._steering.strength_of`. The paper: mean.

    Raises:
        FedsimError: the model has no base, or no true token is one of the sure ones.
    """
    paired = with_base(model, config.model_copy(update={"strength": 1.0}))
    parts = [_places(*scores, config) for scores in both(paired, examples)]
    if not sum(len(part.truth) for part in parts):
        raise FedsimError(
            f"no true token has {config.confidence} of the largest odds, so that no strength can be found. Tune the "
            "model for longer, or lower the confidence."
        )
    strength = strength_of(joined(parts), mode)
    return strength if config.sign == "task" else -strength


def costs(model: nn.Module, examples: Batch, config: SteeringConfig) -> Tensor:
    """Return -ln of the steered probability of each example's true tokens together, shape (N,), double precision.

    Tokens outside keep their scores, whatever the settings say: else an answer with one of them would be impossible.

    Args:
        model: see `calibrate`.
        examples: see `calibrate`.
        config: strength, confidence and sign.

    Raises:
        FedsimError: the model has no base.
    """
    costs_of_rows = list[Tensor]()
    batches = zip(examples.labels.split(AT_ONCE), both(with_base(model, config), examples), strict=True)
    for labels, (tuned, base, true) in batches:
        scores = steered(tuned.double(), base.double(), config.towards_task, config.confidence, refuses=False)
        each = torch.zeros(labels.shape, dtype=torch.double)
        each[labels != IGNORED] = torch.nn.functional.cross_entropy(scores, true, reduction="none")
        costs_of_rows.append(each.sum(1))
    return torch.cat(costs_of_rows)


def _places(tuned: Tensor, base: Tensor, true: Tensor, config: SteeringConfig) -> SteeredPlaces:
    return places(tuned, base, true, config.confidence, refuses=config.outside == "refused")


@torch.no_grad()
def both(model: nn.Module, examples: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the scores of the tuned model and of its base at the places that count (M, V), and the true tokens (M,)."""
    for inputs, labels in zip(examples.inputs.split(AT_ONCE), examples.labels.split(AT_ONCE), strict=True):
        is_real = labels != IGNORED
        with without_dropout():
            tuned, base = model(inputs)[is_real], _base_scores(model, inputs)[is_real]
        _check_sizes(tuned, base)
        yield tuned, base, labels[is_real]


def _check_adapters(model: nn.Module) -> None:
    if not any(isinstance(module, LowRankLinear) for module in model.modules()):
        raise FedsimError(
            "decoder 'svdecode' steers away from the model before its tuning, and this model has neither adapters that "
            "can be taken off nor a base. Name its base by setting base, give BesideBase(tuned, base), or set strength "
            "= 0."
        )


def _check_sizes(tuned: Tensor, base: Tensor) -> None:
    if tuned.shape != base.shape:
        raise FedsimError(
            f"the tuned model scores {tuned.shape[-1]} tokens and its base {base.shape[-1]}: they have different "
            "tokenizers. Take the model that the tuning began with."
        )
