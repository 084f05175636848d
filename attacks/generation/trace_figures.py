"""trace-figures: summarise a trace in a few features with an estimable mutual information with the prompt.

Idea: no attacker is trained; the mutual information of a feature with the prompt is a lower bound of the leakage.
Equation: for each series c its length, sum_t c_t, sum_t c_t^2 and c_1.
Assumes: nothing.
Recovers: bits: the largest mutual information of a single feature with the prompt's number.
Fails: information that only several features together, or the order of steps, contain is not counted.
Source: estimator of the bits: Ross 2014, PLoS ONE 9(2) e87357.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.generation._traces import summarise
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.types import TraceCase, TraceQuestion


@final
@attack("trace-figures", summary="traces: bits about the prompt in length, sum, squares and first step", tier="core")
class TraceFigures(TraceAttack[Config]):
    """Computes length, sum, sum of squares and first value of each series."""

    questions: ClassVar[tuple[TraceQuestion, ...]] = ("bits",)

    def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Return the features of every observed text."""
        return torch.as_tensor(summarise(case.observations))
