"""svdecode-beam: keep the likeliest beginnings of a text by steered scores side by side, and write the likeliest whole.

Idea: what steering raises along a whole text may differ from what it raises token by token.
Equation: score(x) = log Pr(x) / |x|^a, as decoder `beam`, where Pr is the softmax of the scores of `svdecode`.
Assumes: as `svdecode`; every step reads the texts anew, without what was read before.
Leaks: as `svdecode`; a token is written when all beginnings agree on it, so the trace shows where they did not.
Fails: as both.
Source: Hu, Han et al. 2025, arXiv 2509.15888, which runs its method under beam search with 4 beams.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from pydantic import Field
from torch import nn

from fedsim.components.decoder._tuned_pair import SteeredModel, SteeringConfig, SteeringDecoder
from fedsim.core import registry
from fedsim.core.hooks import Condition, GenerationContext, Writing
from fedsim.core.registry import component
from fedsim.core.types import Event


class SvdecodeBeamConfig(SteeringConfig):
    """Settings of steering vector decoding under a search."""

    width: int = Field(default=4, ge=1, description="beginnings k that are followed; the paper: 4")
    penalty: float = Field(default=1.0, ge=0, description="a; above 0, longer texts are preferred")


@dataclass(frozen=True)
class SteeredSearch(Writing):
    """Texts as far as they are sure, and their search.

    Attributes:
        models: the tuned model of each row with its base, the same for all.
        search: the state of decoder `beam`.
    """

    models: tuple[nn.Module, ...]
    search: Any


@final
@component(
    "svdecode-beam",
    summary="decoder: beam search by the scores of svdecode",
    paper="2509.15888",
    fidelity="reproduction",
    paper_steps=(
        ("beam search of steered scores", "SvdecodeBeam.step", "test_the_text_is_the_best_of_all_by_steered_scores"),
    ),
)
class SvdecodeBeam(SteeringDecoder[SvdecodeBeamConfig, SteeredSearch]):
    """Runs decoder `beam` on the steered model."""

    counts: ClassVar[frozenset[str]] = frozenset({"accepted", "rows"})

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> SteeredSearch:
        """Return the prompts, and searches that have not begun.

        Raises:
            FedsimError: the decoder was not fitted, or its base cannot be loaded; see `pairs`.
        """
        models = self.pairs(model, condition)
        return SteeredSearch(condition.prompts, models, self._beam().start(model, condition, context))

    def step(
        self, model: nn.Module, state: SteeredSearch, context: GenerationContext
    ) -> tuple[SteeredSearch, list[Event]]:
        """Follow every beginning by one token.

        Raises:
            CannotContinue: scores of a row's beginnings are no numbers.
            FedsimError: the strength is not 0, and the model has no base.
        """
        after, events = self._beam().step(SteeredModel(state.models[0], self.config), state.search, context)
        passes = 1 if self.config.strength == 0 else 2
        counted = [Event(accepted=one["accepted"], rows=passes * one["rows"]) for one in events]
        return replace(state, tokens=after.tokens, search=after), counted

    def _beam(self) -> Any:
        method = registry.get("component", "beam")
        return method.make(method.config.model_validate({"width": self.config.width, "penalty": self.config.penalty}))
