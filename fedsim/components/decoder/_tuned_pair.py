"""A fine-tuned model with its base model: steered scores, and calibration of the strength on labelled text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.low_rank import LowRankLinear, adapters_off
from fedsim.components.decoder._second_model import second_model
from fedsim.components.decoder._steering import Mode, SteeredPlaces, concat_positions, places, steer_scores, strength_of
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Decoder, GenerationInputs, TextState
from fedsim.core.nets.losses import IGNORED
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.settings import NameOrFolder
from fedsim.core.types import Batch, Config

AT_ONCE = 8


class SteeringConfig(Config):
    """Settings of steering."""

    strength: float | Literal["calibrate"] = Field(
        examples=[0.0],
        description="mu; calibrate: fitted to held-out texts, which generation.calibration chooses; 0: the tuned model "
        "alone, without its base, to compare with",
    )
    base: NameOrFolder = Field(
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
        """Strength along the direction of fine-tuning.

        Raises:
            FedsimError: the strength is to be calibrated, and no texts were available.
        """
        if self.strength == "calibrate":
            raise FedsimError(
                "strength = 'calibrate' needs texts of clients, which a scenario's table [generation] gives. Set "
                "strength to a number, as from `calibrate`."
            )
        return self.strength if self.sign == "task" else -self.strength


SteeringConfigT = TypeVar("SteeringConfigT", bound=SteeringConfig)
SteeredT = TypeVar("SteeredT", bound=TextState)


class BesideBase(nn.Module):
    """A tuned model with its base: maps tokens (B, T) to scores of the tuned model (B, T, V)."""

    def __init__(self, tuned: nn.Module, base: nn.Module) -> None:
        super().__init__()
        self.tuned, self.base = tuned, base

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tuned model's scores."""
        return self.tuned(tokens)


class SteeredModel(nn.Module):
    """A tuned model and its base as one model: maps tokens (B, T) to steered scores (B, T, V).

    Args:
        model: a model with adapters, or `BesideBase`.
        config: settings of steering.
    """

    def __init__(self, model: nn.Module, config: SteeringConfig) -> None:
        super().__init__()
        self.model, self._config = model, config

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the steered scores.

        Raises:
            FedsimError: the model has no base, or the vocabularies differ.
        """
        config = self._config
        tuned = self.model(tokens)
        base = tuned if config.strength == 0 else _base_scores(self.model, tokens)
        check_sizes(tuned, base)
        return steer_scores(tuned, base, config.towards_task, config.confidence, refuses=config.outside == "refused")


def with_base(model: nn.Module, config: SteeringConfig) -> nn.Module:
    """Return a model with the configured base; the model itself if no base is configured or needed.

    Raises:
        FedsimError: unknown base.
    """
    if not config.base or config.strength == 0 or isinstance(model, BesideBase):
        return model
    with torch.no_grad():
        vocabulary = model(torch.tensor([[0]])).shape[-1]
    return BesideBase(model, second_model(config.base, vocabulary))


def _base_scores(model: nn.Module, tokens: Tensor) -> Tensor:
    if isinstance(model, BesideBase):
        return model.base(tokens)
    check_adapters(model)
    with adapters_off(model):
        return model(tokens)


class SteeringDecoder(Decoder[SteeringConfigT, SteeredT]):
    """Base class of decoders that generate from steered scores."""

    def fit_to_texts(self, model: nn.Module, texts: Batch) -> Self:
        """Return the decoder with calibrated strength, if the settings ask for it.

        Raises:
            FedsimError: no texts are given, or as in `calibrate`.
        """
        if self.config.strength != "calibrate":
            return self
        if not len(texts):
            raise FedsimError(
                f"decoder '{self.name}': strength = 'calibrate' needs texts that no round trained on, and every text "
                'of the clients was. Set generation.calibration = "test", or strength to a number.'
            )
        strength = calibrate(model, texts, self.config, self.config.mode)
        return type(self)(self.config.model_copy(update={"strength": strength})).with_name(self.name)

    def pairs(self, model: nn.Module, condition: GenerationInputs) -> tuple[nn.Module, ...]:
        """Return the model with its base, once per prompt.

        Raises:
            FedsimError: the strength is to be calibrated and the decoder was not fitted, or the base cannot be loaded.
        """
        _ = self.config.towards_task
        return (with_base(model, self.config),) * len(condition)


def calibrate(model: nn.Module, examples: Batch, config: SteeringConfig, mode: Mode = "mean") -> float:
    """Return the strength mu fitted to labelled text that fine-tuning has not used.

    Args:
        model: tuned model with adapters, or `BesideBase`, or with its base in the settings; it is not changed.
        examples: tokens (N, T), and the next tokens, -100 where ignored.
        config: confidence, treatment of unconfident tokens, and sign; its strength is ignored.
        mode: combination of positions, see `fedsim.components.decoder._steering.strength_of`. The paper: mean.

    Raises:
        FedsimError: the model has no base, or no true token is confident.
    """
    paired = with_base(model, config.model_copy(update={"strength": 1.0}))
    parts = [_places(*scores, config) for scores in paired_scores(paired, examples)]
    if not sum(len(part.truth) for part in parts):
        raise FedsimError(
            f"no true token has {config.confidence} of the largest odds, so that no strength can be found. Tune the "
            "model for longer, or lower the confidence."
        )
    strength = strength_of(concat_positions(parts), mode)
    return strength if config.sign == "task" else -strength


def _places(tuned: Tensor, base: Tensor, true: Tensor, config: SteeringConfig) -> SteeredPlaces:
    return places(tuned, base, true, config.confidence, refuses=config.outside == "refused")


@torch.no_grad()
def paired_scores(model: nn.Module, examples: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield scores of the tuned model and of its base at labelled positions (M, V), and the true tokens (M,)."""
    for inputs, labels in zip(examples.inputs.split(AT_ONCE), examples.labels.split(AT_ONCE), strict=True):
        is_real = labels != IGNORED
        with disable_dropout():
            tuned, base = model(inputs)[is_real], _base_scores(model, inputs)[is_real]
        check_sizes(tuned, base)
        yield tuned, base, labels[is_real]


def check_adapters(model: nn.Module) -> None:
    if not any(isinstance(module, LowRankLinear) for module in model.modules()):
        raise FedsimError(
            "the decoder steers away from the model before its tuning, and this model has neither removable "
            "adapters nor a base. Name its base by setting base, pass BesideBase(tuned, base), or set "
            "strength = 0."
        )


def check_sizes(tuned: Tensor, base: Tensor) -> None:
    if tuned.shape != base.shape:
        raise FedsimError(
            f"the tuned model scores {tuned.shape[-1]} tokens and its base {base.shape[-1]}: they have different "
            "tokenizers. Take the model that the tuning began with."
        )
