"""Searches in variables that generate the inputs: weights of a generator network, entries of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.core.matching.comparison import Comparison, Gradients
from attacks.core.matching.descent import Descent, RestartResult
from attacks.core.matching.unknowns import NOTHING, Values
from fedsim.core.types import Masks, OnStep, Step

InputMaker = Callable[[Tensor, Sequence[int]], Tensor]
"""Function from variables (R, ...) to inputs (R, B, *shape), given the victim of each row; differentiable."""


@dataclass(frozen=True)
class Substitution:
    """Variables that replace the inputs.

    Attributes:
        make: function from variables to inputs.
        first: draws the variables of a victim's next restart, without the row dimension.
    """

    make: InputMaker
    first: Callable[[int, torch.Generator], Tensor]

    def apply(self, descent: Descent) -> Descent:
        """Return the same search in the variables. It has no box, and its steps report inputs."""
        search, victims = descent.search, descent.victims
        substituted = replace(
            search,
            first=self.first,
            prior=lambda variables, masks, rows: search.prior(self.make(variables, rows), masks, rows),
        )
        shown = [self._wrap_callback(victim, on_step) for victim, on_step in enumerate(victims.on_steps)]
        comparison = _OfVariables(descent.comparison, self.make)
        return replace(
            descent, comparison=comparison, search=substituted, victims=victims._replace(on_steps=shown), box=None
        )

    def substitute_inputs(self, rows: Sequence[RestartResult]) -> list[RestartResult]:
        """Return the results of rows with the inputs of their variables."""
        return [replace(row, inputs=self._make_inputs(row.inputs, row.victim)) for row in rows]

    def _wrap_callback(self, victim: int, on_step: OnStep) -> OnStep:
        def tell(step: Step) -> None:
            on_step(replace(step, guess=self._make_inputs(step.guess, victim)))

        return tell

    def _make_inputs(self, variables: Tensor, victim: int) -> Tensor:
        return self.make(variables[None], [victim])[0].detach()


class _OfVariables:
    """Compares the gradients of the inputs that variables generate."""

    def __init__(self, of_inputs: Comparison, make: InputMaker) -> None:
        self.name, self.like = of_inputs.name, of_inputs.like
        self._of_inputs, self._make = of_inputs, make

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], variables: Values = NOTHING
    ) -> Gradients:
        return self._of_inputs.gradients(self._make(inputs, victims), masks, labels, victims, variables)
