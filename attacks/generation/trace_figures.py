"""trace-figures: sum a trace up in few figures, whose information about the prompt can be estimated.

Idea: no attacker is trained; how many bits of the prompt a figure holds bounds from below what anybody learns from it.
Equation: for each series c its length, sum_t c_t, sum_t c_t^2 and c_1.
Assumes: nothing.
Recovers: bits: the most that one of the figures says of the prompt's number, in mutual information.
Fails: what only several figures together, or the order of steps, tell is not counted.
Source: estimator of the bits: Ross 2014, PLoS ONE 9(2) e87357.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.generation._traces import summarise
from fedsim.core.hooks import TraceAttack
from fedsim.core.registry import trace_attack
from fedsim.core.types import Config, TraceCase, TraceQuestion


@final
@trace_attack("trace-figures", summary="traces: bits about the prompt in length, sum, squares and first step")
class TraceFigures(TraceAttack[Config]):
    """Gives length, sum, sum of squares and first value of each series."""

    questions: ClassVar[tuple[TraceQuestion, ...]] = ("bits",)

    def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Return the figures of every seen text."""
        return torch.as_tensor(summarise(case.seen))
