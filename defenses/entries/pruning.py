"""pruning: sends the entries of largest absolute value and sets the others to zero (top-k).

Exactly k entries are sent, also with ties; e is kept between rounds that counted. If each of several steps is pruned,
the support of the update is the union of the steps' supports. At a rate of 0.99 the model does not learn without error
feedback.

Idea: Few large entries train nearly as well, and an inversion lacks the rest.
Equation: sent = top_k(g + e), e' = g + e - sent; e is the error feedback, 0 without it.
Assumes: a server that sees a single gradient and does not know which entries were sent on purpose.
Protects: details of the input, at high rates. Noise after pruning fills the zeros again.
Fails: against matching on the sent entries alone; over several rounds error feedback sends everything.
Source: Zhu, Liu, Han 2019, arXiv 1906.08935, section 5.2; error feedback: Lin et al. 2018, arXiv 1712.01887.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field

from defenses.core.support import SupportConfig, largest, zero_outside
from defenses.core.tensors import TensorDefense
from fedsim.core.hooks import Distortion, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors
from fedsim.core.types.effects import Sparsified


class PruningConfig(SupportConfig):
    """Settings of pruning."""

    error_feedback: bool = Field(
        default=False, description="whether entries that are not sent are added to the next gradient or update"
    )


@final
@defense(
    "pruning",
    summary="sends the entries of largest absolute value (top-k)",
    tier="core",
    related="1906.08935",
    aliases=("top-k",),
)
class Pruning(TensorDefense[PruningConfig]):
    """Sends exactly k entries, even with ties."""

    place: ClassVar[Place] = "entries"

    def __init__(self, config: PruningConfig) -> None:
        """Enable a memory between rounds if error feedback is on."""
        super().__init__(config)
        self.keeps_state = config.error_feedback

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the tensors, with zeros for entries that are not sent."""
        if not self.config.error_feedback:
            return self._prune_tensors(tensors)
        whole = {name: t + context.memory[name] if name in context.memory else t for name, t in tensors.items()}
        sent = self._prune_tensors(whole)
        context.memory.update({name: whole[name] - sent[name] for name in whole})
        return sent

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion | None:
        """Return the projection on the sent entries; None with error feedback, which sends the rest later."""
        return None if self.config.error_feedback else Distortion(change=self._prune_tensors)

    def adaptive_view(self) -> MethodDescription:
        """Return the share that is sent."""
        config = self.config
        kept = (Sparsified(1.0 - config.rate),) if config.rate else ()
        return MethodDescription("pruning", kept, {"error_feedback": config.error_feedback})

    def _prune_tensors(self, tensors: Tensors) -> Tensors:
        support = largest({name: t.abs() for name, t in tensors.items()}, self.config.rate, self.config.per)
        return zero_outside(tensors, support)
