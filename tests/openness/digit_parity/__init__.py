"""parity: do even or odd digits dominate a client's batch?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, final

import torch
from pydantic import Field

from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import ScenarioError
from fedsim.core.registry import metric, question
from fedsim.metrics.statistics import wilson
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding, Interval
from fedsim.scenario.world import World


class ParitySettings(TimedConfig):
    """Which tensor is read."""

    bias: str = Field(min_length=1, description="name of the last layer's bias")


@metric(
    "parity_told",
    title="parity told",
    summary="share of the updates whose dominating parity was told",
    over="finding",
    form="percent",
    digits=0,
)
def parity_told(is_right: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Return the share with Wilson's interval."""
    return wilson(sum(is_right), len(is_right), confidence)


@final
@question("parity", summary="do even or odd digits dominate a client's batch?")
class Parity(Question[ParitySettings]):
    """Reads the signs of the last bias's gradient: classes in the batch pull theirs down."""

    title: ClassVar[str] = "Even or odd?"
    summary: ClassVar[str] = "The gradient of the last bias is negative where a class is in the batch."

    def check(self, world: World) -> None:
        """Check that the model has this tensor."""
        if self.config.bias not in dict(world.models.new().named_parameters()):
            raise ScenarioError(f"parity.bias: the model has no parameter '{self.config.bias}'.")

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield how often the parity is told, and how often a coin tells it."""
        right, by_coin = [], []
        coin = torch.Generator().manual_seed(evidence.world.scenario.seed)
        pairs = list(zip(evidence.journal.entries, evidence.truths, strict=True))
        for number, (entry, truth) in enumerate(pairs, 1):
            work.progress("parity of update", number, len(pairs))
            slopes = entry.update.tensors[self.config.bias]
            labels = torch.cat([batch.labels for batch in truth.original_batches])
            is_odd = bool((labels % 2).double().mean() > 0.5)
            right.append(bool(slopes[1::2].sum() < slopes[::2].sum()) == is_odd)
            by_coin.append(bool(torch.rand((), generator=coin) < 0.5) == is_odd)
        finding = Finding(question="parity", label="signs of the bias", metric="parity_told", chance_level=0.5)
        yield finding.model_copy(update={"value": parity_told(right)})
        yield finding.model_copy(update={"value": parity_told(by_coin), "label": "a coin", "role": "negative-control"})
