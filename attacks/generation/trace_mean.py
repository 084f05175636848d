"""trace-mean: score a text by the mean of a count of its steps, such as accepted tokens.

Idea: a model is confident on memorised text, so drafts are accepted, exits come early and few trials are rejected.
Equation: score = s mean_t c_t of the count c; s = 1, or -1 if the known members have the smaller mean.
Assumes: the chosen count is informative; without known texts, that it is larger for training texts.
Recovers: a score for each text, higher for likely training texts or planted secrets.
Fails: schedules that do not depend on the text; texts that every model continues alike.
Source: for early exits, Li et al. 2022, arXiv 2208.11180; here for every count of a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import NotApplicable, did_you_mean
from fedsim.core.registry import attack
from fedsim.core.types import Config, TraceObservation, TraceView
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.types import TraceCase, TraceQuestion


class TraceMeanConfig(Config):
    """Settings of the mean."""

    count: str = Field(default="", description="a count of view 'work'; empty: tokens of a packet, or seconds")


@final
@attack("trace-mean", summary="traces: the mean over steps of a single count", tier="core", related="2208.11180")
class TraceMean(TraceAttack[TraceMeanConfig]):
    """Computes the mean of a series, with a sign learned from the known texts."""

    questions: ClassVar[tuple[TraceQuestion, ...]] = ("member", "planted")
    views: ClassVar[frozenset[TraceView]] = frozenset({"counts", "work", "timing"})

    def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Return the signed mean of every observed text."""
        means = torch.tensor([self._mean(trace) for trace in case.observations], dtype=torch.double)
        known = np.array([self._mean(trace) for trace in case.known_observations])
        members, non_members = (known[np.array(case.labels, int) == label] for label in (1, 0))
        falls = len(members) and len(non_members) and members.mean() < non_members.mean()
        return -means if falls else means

    def _mean(self, trace: TraceObservation) -> float:
        series = self._series(trace)
        return float(np.mean(series)) if len(series) else 0.0

    def _series(self, trace: TraceObservation) -> Sequence[float]:
        if trace.work is None:
            return trace.counts if trace.counts is not None else trace.seconds or ()
        if not trace.work:  # a text that failed before its first step
            return ()
        if self.config.count not in trace.work:
            raise NotApplicable(
                f"the steps have no count '{self.config.count}'.{did_you_mean(self.config.count, trace.work)} They "
                f"have: {', '.join(trace.work)}"
            )
        return trace.work[self.config.count]
