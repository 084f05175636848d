"""svdecode: moves scores further along the direction of fine-tuning (steering vector), by one calibrated strength.

Idea: tokens whose scores fine-tuning raised are more often right; the change of scores, mapped by the softmax's
    Jacobian, is added again.
Equation: z + mu delta, delta = p (D - E_p D), D = z - z' of the tuned and the base model, p = softmax(z); only tokens
    with p >= a max p move, others are refused or kept; mu by `calibrate` on labelled text not used in tuning.
Assumes: the tuned model and its base: removable adapters, the setting `base`, or `BesideBase`; one tokenizer.
Leaks: it amplifies the effect of fine-tuning, including memorised text; mu is one number computed from private labels,
    unbounded for the plain mean. Counts depend on the length of the text only.
Fails: without a difference to the base nothing moves; calibrated on the training text, mu is too large.
Source: Hu, Han et al. 2025, arXiv 2509.15888, algorithms 1 and 2; delta points towards the task here, so mu > 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.core.low_rank import adapters_off
from fedsim.components.decoder._drawing import draw, likeliest, nucleus
from fedsim.components.decoder._steering import steer_scores
from fedsim.components.decoder._tuned_pair import (
    AT_ONCE,
    BesideBase,
    SteeringConfig,
    SteeringDecoder,
    calibrate,
    check_adapters,
    check_sizes,
    paired_scores,
    with_base,
)
from fedsim.core.hooks import GenerationContext, GenerationInputs, TextState
from fedsim.core.nets.kv_cache import DecodingCache
from fedsim.core.nets.losses import IGNORED
from fedsim.core.registry import component
from fedsim.core.types import Batch, Event

__all__ = ["BesideBase", "Svdecode", "SvdecodeConfig", "calibrate", "costs"]


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


@dataclass(frozen=True)
class Steered(TextState):
    """Texts, and the key-value cache of the base model, which differs from the tuned model's.

    Attributes:
        models: tuned model with its base, once per row; all equal.
        base_past: key-value cache of the base model.
    """

    models: tuple[nn.Module, ...]
    base_past: DecodingCache = field(default_factory=DecodingCache, kw_only=True, compare=False, repr=False)


@final
@component(
    "svdecode",
    summary="decoder: further along the direction of a fine-tuning",
    tier="research",
    paper="2509.15888",
    fidelity="reproduction",
    paper_steps=(
        ("steering vector of the difference of both models", "Svdecode.step"),
        ("strength from labelled text", "calibrate"),
        ("only sure tokens move", "costs"),
        ("top-k and top-p of the steered scores", "Svdecode.step"),
    ),
)
class Svdecode(SteeringDecoder[SvdecodeConfig, Steered]):
    """Generates a token per step from the scores of two models on the same text."""

    counts: ClassVar[frozenset[str]] = frozenset({"rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Steered:
        """Return the prompts.

        Raises:
            FedsimError: the decoder was not fitted, or its base cannot be loaded; see `pairs`.
        """
        return Steered(condition.prompts, self.pairs(model, condition))

    def step(self, model: nn.Module, state: Steered, context: GenerationContext) -> tuple[Steered, list[Event]]:
        """Append a token to each row.

        Raises:
            GenerationError: scores of some rows are not finite.
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
        return state.append_tokens([[token] for token in chosen]), [Event(rows=rows)] * len(state)

    def _scores(self, model: nn.Module, state: Steered) -> Tensor:
        """Return the steered next-token scores of each row."""
        config, by_base = self.config, replace(state, past=state.base_past)
        tuned = base = self.next_scores(model.tuned if isinstance(model, BesideBase) else model, state)
        if config.strength != 0 and isinstance(model, BesideBase):
            base = self.next_scores(model.base, by_base)
        elif config.strength != 0:
            check_adapters(model)
            with adapters_off(model):
                base = self.next_scores(model, by_base)
        check_sizes(tuned, base)
        return steer_scores(tuned, base, config.towards_task, config.confidence, refuses=config.outside == "refused")


def costs(model: nn.Module, examples: Batch, config: SteeringConfig) -> Tensor:
    """Return the steered cross-entropy per example, summed over its labelled positions, shape (N,), double precision.

    Unconfident tokens keep their scores whatever the settings, because a refused true token would have infinite cost.

    Args:
        model: as in `calibrate`.
        examples: as in `calibrate`.
        config: strength, confidence and sign.

    Raises:
        FedsimError: the model has no base.
    """
    costs_of_rows = list[Tensor]()
    batches = zip(examples.labels.split(AT_ONCE), paired_scores(with_base(model, config), examples), strict=True)
    for labels, (tuned, base, true) in batches:
        scores = steer_scores(tuned.double(), base.double(), config.towards_task, config.confidence, refuses=False)
        token_costs = torch.zeros(labels.shape, dtype=torch.double)
        token_costs[labels != IGNORED] = torch.nn.functional.cross_entropy(scores, true, reduction="none")
        costs_of_rows.append(token_costs.sum(1))
    return torch.cat(costs_of_rows)
