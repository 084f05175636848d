"""svdecode-beam: beam search with steered scores.

Idea: steering may favour other texts as a whole than token by token.
Equation: score(x) = log Pr(x) / |x|^a, as decoder `beam`, where Pr is the softmax of the scores of `svdecode`.
Assumes: as `svdecode`; each step processes the texts anew, without a key-value cache.
Leaks: as `svdecode`; a token is emitted when all prefixes agree on it, so the trace shows where they disagreed.
Fails: as `svdecode` and `beam`.
Source: Hu, Han et al. 2025, arXiv 2509.15888, which runs its method under beam search with 4 beams.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from pydantic import Field
from torch import nn

from fedsim.components.decoder._tuned_pair import SteeredModel, SteeringConfig, SteeringDecoder
from fedsim.core import registry
from fedsim.core.hooks import GenerationContext, GenerationInputs, TextState
from fedsim.core.registry import component
from fedsim.core.types import Event


class SvdecodeBeamConfig(SteeringConfig):
    """Settings of steering vector decoding with beam search."""

    width: int = Field(default=4, ge=1, description="beginnings k that are followed; the paper: 4")
    penalty: float = Field(default=1.0, ge=0, description="a; above 0, longer texts are preferred")


@dataclass(frozen=True)
class SteeredSearch(TextState):
    """Texts up to the tokens that all prefixes share, and their search.

    Attributes:
        models: tuned model with its base, once per row; all equal.
        search: state of decoder `beam`.
    """

    models: tuple[nn.Module, ...]
    search: Any


@final
@component(
    "svdecode-beam",
    summary="decoder: beam search by the scores of svdecode",
    tier="research",
    paper="2509.15888",
    fidelity="reproduction",
    paper_steps=(("beam search of steered scores", "SvdecodeBeam.step"),),
)
class SvdecodeBeam(SteeringDecoder[SvdecodeBeamConfig, SteeredSearch]):
    """Runs decoder `beam` on the steered model."""

    counts: ClassVar[frozenset[str]] = frozenset({"accepted", "rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> SteeredSearch:
        """Return the prompts with new searches.

        Raises:
            FedsimError: the decoder was not fitted, or its base cannot be loaded; see `pairs`.
        """
        models = self.pairs(model, condition)
        return SteeredSearch(condition.prompts, models, self._beam().start(model, condition, context))

    def step(
        self, model: nn.Module, state: SteeredSearch, context: GenerationContext
    ) -> tuple[SteeredSearch, list[Event]]:
        """Extend each prefix by a token.

        Raises:
            GenerationError: scores of a row's prefixes are not finite.
            FedsimError: the strength is not 0, and the model has no base.
        """
        after, events = self._beam().step(SteeredModel(state.models[0], self.config), state.search, context)
        passes = 1 if self.config.strength == 0 else 2
        counted = [Event(accepted=event["accepted"], rows=passes * event["rows"]) for event in events]
        return replace(state, tokens=after.tokens, search=after), counted

    def _beam(self) -> Any:
        method = registry.get("component", "beam")
        return method.make(method.config.model_validate({"width": self.config.width, "penalty": self.config.penalty}))
