"""speculative: a cheap model drafts tokens; the model verifies them in a single pass and keeps the accepted prefix.

Idea: several positions cost one pass of the model; accepted draft tokens save the passes between them.
Equation: x drafted from q is accepted with probability min(1, p(x) / q(x)); the first rejected token is resampled from
    (p - q)+ / sum; if all are accepted, one more is sampled from p. So each token is distributed as p, for any q.
Assumes: a draft model with the same tokenizer, or a model whose first layers can be run alone.
Leaks: tokens per step depend on how predictable the text is for the draft; packets show them.
Fails: if the model seldom accepts, drafting costs more than it saves; first layers need training for early exits.
Source: Leviathan, Kalman, Matias 2023, arXiv 2211.17192; first layers: Zhang et al. 2024, arXiv 2309.08168.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.decoder._drafting import DraftedTexts
from fedsim.components.decoder._odds import finite
from fedsim.components.decoder._second_model import second_model
from fedsim.components.decoder._shortlist import DraftConfig, score_drafts
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, check_scores
from fedsim.core.nets.kv_cache import DecodingCache, Draft, stack_of
from fedsim.core.registry import component
from fedsim.core.settings import NameOrFolder
from fedsim.core.types import Event


class SpeculativeConfig(DraftConfig):
    """Settings of speculative decoding."""

    length: int = Field(default=4, ge=1, description="tokens of a draft, at most")
    sure: float = Field(
        default=0.0, ge=0, lt=1, description="a draft ends where its likeliest token has less probability than this"
    )
    draft: NameOrFolder = Field(
        default="", description="model that drafts: a model's name, or the folder of a checkpoint"
    )
    layers: int | None = Field(
        default=None, ge=1, description="first layers that draft instead; by default a quarter of them"
    )

    @model_validator(mode="after")
    def _one_drafts(self) -> Self:
        if self.draft and self.layers is not None:
            raise ValueError("'draft' and 'layers' are both set, and each names the draft model: set only one.")
        return self


@dataclass(frozen=True)
class Drafter:
    """A draft model, or the first layers of a model, with its key-value cache."""

    model: nn.Module
    layers: range | None
    past: DecodingCache

    def keep(self, places: Sequence[int]) -> Drafter:
        """Return the drafter with the given rows of its cache."""
        return Drafter(self.model, self.layers, self.past.keep(places))


@dataclass(frozen=True)
class Speculating(DraftedTexts):
    """Texts, and the drafter of their next tokens."""

    drafter: Drafter


@final
@component(
    "speculative",
    summary="decoder: drafts of a cheap model, exact by rejection",
    tier="research",
    paper="2211.17192",
    fidelity="reproduction",
    paper_steps=(
        ("drafts of a cheaper model", "Speculative._draft"),
        (
            "acceptance, and a draw of the residual at the first rejection",
            "fedsim.components.decoder._odds.DrawConfig.stands",
        ),
    ),
)
class Speculative(Decoder[SpeculativeConfig, Speculating]):
    """Generates the accepted draft tokens and one more per step. `layers` counts those of draft and model."""

    counts: ClassVar[frozenset[str]] = frozenset({"proposed", "accepted", "layers"})
    exact: ClassVar[bool] = True

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Speculating:
        """Return the prompts and the drafter.

        Raises:
            FedsimError: the draft model cannot be loaded or has another vocabulary; or single layers cannot be run.
        """
        begins = tuple(map(len, condition.prompts))
        return Speculating(condition.prompts, begins, self._drafter(model, condition.prompts[0][:1]))

    def step(self, model: nn.Module, state: Speculating, context: GenerationContext) -> tuple[Speculating, list[Event]]:
        """Draft tokens, verify them in a single pass, and append the accepted ones."""
        drafted, odds, passes = self._draft(state, context)
        scores = state.past.scores(model, state.tokens, [Draft.line(draft) for draft in drafted])
        check_scores(scores)
        new: list[list[int]] = []
        for row_draft, drafter, target, generator in zip(drafted, odds, scores, context.generators, strict=True):
            usable = finite(target)
            new.append(self.config.stands(row_draft[: len(usable) - 1], drafter, usable, generator))
        drafting, reading = _depths(state.drafter, model)
        events = [
            Event(proposed=len(draft), accepted=len(new_tokens) - 1, layers=count * drafting + reading)
            for draft, new_tokens, count in zip(drafted, new, passes, strict=True)
        ]
        return state.append_tokens(new), events

    def _draft(
        self, state: Speculating, context: GenerationContext
    ) -> tuple[list[list[int]], list[list[Tensor | None]], list[int]]:
        """Return per row the draft tokens, their distributions, and the number of draft passes."""
        limits = context.limits
        stops = limits.stop_tokens if limits is not None else frozenset[int]()
        left = [state.room(row, context, self.config.length) for row in range(len(state))]
        drafted: list[list[int]] = [[] for _ in left]
        odds: list[list[Tensor | None]] = [[] for _ in left]
        passes = [0] * len(left)
        while any(left):
            passes = [count + (count_left > 0) for count, count_left in zip(passes, left, strict=True)]
            texts = [(*text, *count_left) for text, count_left in zip(state.tokens, drafted, strict=True)]
            for row, score in enumerate(self._scores(state.drafter, texts)):
                if not left[row] or not score.amax().isfinite() or self._is_unsure(score):
                    left[row] = 0
                    continue
                token, chances = self.config.draw(score, context.generators[row])
                drafted[row].append(token)
                odds[row].append(chances)
                left[row] = 0 if token in stops else left[row] - 1
        return drafted, odds, passes

    def _scores(self, drafter: Drafter, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the next-token scores (V,) of each text."""
        stack = stack_of(drafter.model) if self.config.shortlist else None
        if stack is None:
            return [score[0] for score in drafter.past.scores(drafter.model, texts, layers=drafter.layers)]
        hidden, counts = drafter.past.states(drafter.model, texts, layers=drafter.layers)
        pairs = zip(texts, hidden, counts, strict=True)
        first = self.config.shortlist
        return [score_drafts(stack, states[count - 1 : count], text, first)[0] for text, states, count in pairs]

    def _is_unsure(self, scores: Tensor) -> bool:
        # Confidence of the most likely token, not of the sample: the end of a draft must not depend on the sample.
        return self.config.sure > 0 and float((scores.amax() - scores.logsumexp(-1)).exp()) < self.config.sure

    def _drafter(self, model: nn.Module, token: tuple[int, ...]) -> Drafter:
        if not self.config.draft:
            stack = stack_of(model)
            if stack is None:
                raise FedsimError(
                    "decoder 'speculative' runs single layers, and fedsim cannot find the layers of this "
                    "model. Use model 'tiny-llama', a Llama-style checkpoint without token reducers, or "
                    "name a draft."
                )
            return Drafter(
                model, range(min(stack.depth, self.config.layers or max(1, stack.depth // 4))), DecodingCache()
            )
        vocabulary = DecodingCache().scores(model, [token])[0].shape[-1]
        drafter = second_model(self.config.draft, vocabulary)
        size = DecodingCache().scores(drafter, [(0,)])[0].shape[-1]  # token 0, which every model has
        if size != vocabulary:
            raise FedsimError(
                f'draft = "{self.config.draft}" has {size} tokens, the model {vocabulary}: they have different '
                "tokenizers, and one's numbers mean other words to the other. Draft with a model of the same family."
            )
        return Drafter(drafter, None, DecodingCache())


def _depths(drafter: Drafter, model: nn.Module) -> tuple[int, int]:
    """Return the number of layers in a pass of the draft and in one of the model.

    A model of unknown layers counts as one; if the layers of either are unknown, a draft counts as many as the model.
    """
    stack, draft = stack_of(model), stack_of(drafter.model)
    if stack is None or draft is None:
        depth = 1 if stack is None else stack.depth
        return depth, depth
    return draft.depth if drafter.layers is None else len(drafter.layers), stack.depth
