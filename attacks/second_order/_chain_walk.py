"""Invert a network stage by stage, from the head to the image, each by its own equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.results import NothingFound
from attacks.second_order._closed_starts import closed_starts
from attacks.second_order._levenberg_marquardt import Solution, SolverLimits, solve
from attacks.second_order._stage_equations import SizePrior, StageEquations, StageOutput, stage_outputs
from attacks.second_order._stage_facts import StageFacts
from fedsim.core.types import Tensors

_SOLVED = 1e-6  # sum of squares; wrong minima are far above
_REFINED = 130  # unknowns up to which the equations of all later stages refine every input
_REFINEMENTS = 6
_SHARP, _NEARLY_SOLVED, _SHARPENED = 1e-9, 1e-3, 600  # range of sums of squares, and unknowns, for other refinements
_HELD = 1e-4  # weight of the size prior of a refined input: its scale would otherwise diverge
_PRIORS = ((0.1, 30), (1e-3, 60))  # size prior's weights for an input of almost invisible scale, and steps with each
_STEPS = 60
_ITSELF = (math.inf,)
_SHARPNESS = (3.0, 10.0, 30.0, 100.0, math.inf)  # sharpness of ReLUs, annealed
_NEARLY = 2  # number of annealing levels that a start near the solution skips
_FEW = 20  # steps with each
_HOPELESS = 0.98  # share of the objective: after a smaller reduction a start cannot converge in its remaining steps
_DAMPING, _GAIN = 1e-10, 1e-3  # of the last steps: the contrast shows only without damping
_EVERY = 10**12  # entries of a Jacobian: it is always formed

Tell = Callable[[float, Tensor | None], None]
"""Called with the objective after every step, and with the images if they are the unknowns."""


@dataclass(frozen=True)
class Walk:
    """Inputs of a stage-by-stage inversion.

    Attributes:
        facts: facts of every stage, from the first to the last.
        features: known output of the last stage.
        observed_gradients: gradients by name, float64.
        starts: largest number of random starts of a stage.
        generator: random source of the starts.
        tell: called after every step.
    """

    facts: Sequence[StageFacts]
    features: StageOutput
    observed_gradients: Tensors
    starts: int
    generator: torch.Generator
    tell: Tell

    def back(self) -> Solution:
        """Return the images as unknowns (n,): solved from the last stage to the first, then by all equations at once.

        Raises:
            NothingFound: no start converged to the input of a stage.
        """
        output, inputs = self.features, self.features.values
        for number in reversed(range(len(self.facts))):
            inputs = self._input_of(number, output)
            output = StageOutput(
                inputs,
                self._cotangent(number, inputs),
                torch.ones_like(inputs, dtype=torch.bool),
                self.facts[number].blind,
            )
        limits = SolverLimits(_STEPS, 1, _EVERY, 0.0, damping=_DAMPING, still=1.0 - _GAIN)
        return self._solve(self._remaining_equations(0), inputs.flatten(), limits, is_image=True)

    def _input_of(self, number: int, output: StageOutput) -> Tensor:
        facts, best = self.facts[number], math.inf
        for start, sharpness in self._starts(number, output):
            misfit, inputs = self._solve_from_start(facts, output, start, sharpness)
            is_blurred = _SHARP < misfit < _NEARLY_SOLVED and facts.unknowns <= _SHARPENED
            if is_blurred or (misfit < _SOLVED and not facts.blind.scales and facts.unknowns <= _REFINED):
                misfit, inputs = self._refine_input(number, inputs)
            best = min(best, misfit)
            if misfit < _SOLVED:
                return inputs
        raise NothingFound(
            f"lost at the input of '{facts.stage.name}': the smallest sum of squares of its equations over "
            f"all starts is {best:.1e}; it has {facts.unknowns} unknowns and at most {facts.equations} "
            "equations"
        )

    def _starts(self, number: int, output: StageOutput) -> Iterator[tuple[Tensor, Sequence[float]]]:
        """Yield starts, each with a sequence of ReLU sharpness values."""
        facts = self.facts[number]
        annealed = _SHARPNESS if facts.stage.relus() else _ITSELF
        equations = self._equations(facts, output, None)

        def judge(inputs: Tensor) -> float:
            return equations.misfit(equations.unknowns.start(inputs))

        is_positive = number > 0 and self.facts[number - 1].stage.is_gated
        for start in closed_starts(facts, self.observed_gradients, self.generator, judge, is_positive=is_positive):
            yield start, annealed[_NEARLY:] or annealed
        if output.values.shape == facts.shape:
            yield output.values, annealed
        for _ in range(self.starts):
            yield self._noise(number), annealed

    def _noise(self, number: int) -> Tensor:
        """Return noise as the image, or the previous stage's output for noise."""
        before = self.facts[max(0, number - 1)]
        noise = torch.randn(before.shape, generator=self.generator, dtype=torch.float64)
        if not number:
            return noise
        return before.stage.close(before.stage.apply(before.stage.weights(), noise))

    def _solve_from_start(
        self, facts: StageFacts, output: StageOutput, start: Tensor, sharpness: Sequence[float]
    ) -> tuple[float, Tensor]:
        """Return the sum of squares and the input after solving from a start, with ReLUs of increasing sharpness."""
        equations = self._equations(facts, output, None)
        values = equations.unknowns.start(start)
        for steepness in sharpness:
            for relu in facts.stage.relus():
                relu.sharpness = steepness
            for weight, steps in _PRIORS if facts.blind.scales else ((None, _STEPS),):
                prior = None if weight is None else SizePrior(weight, facts.size)
                limits = SolverLimits(steps if math.isinf(steepness) else _FEW, 1, _EVERY, 0.0, still=_HOPELESS)
                values = self._solve(self._equations(facts, output, prior), values, limits).values
        return equations.misfit(values), equations.unknowns.split(values)[0]

    def _refine_input(self, number: int, inputs: Tensor) -> tuple[float, Tensor]:
        """Return the sum of squares of all later equations, and the input that they refine.

        These equations do not depend on the approximate output for which the stage alone was solved.
        """
        facts = self.facts[number]
        prior = SizePrior(_HELD, facts.size) if facts.blind.scales else None
        residual = self._remaining_equations(number, prior)
        values = self._solve(residual, inputs.flatten(), SolverLimits(_REFINEMENTS, 1, _EVERY, 0.0)).values
        return residual.misfit(values), values.view(facts.shape)

    def _remaining_equations(self, number: int, prior: SizePrior | None = None) -> StageEquations:
        facts = self.facts[number]
        stages = [fact.stage for fact in self.facts[number:]]
        return StageEquations(stages, facts.shape, self.features, self.observed_gradients, prior, facts.blind)

    def _equations(self, facts: StageFacts, output: StageOutput, prior: SizePrior | None) -> StageEquations:
        return StageEquations([facts.stage], facts.shape, output, self.observed_gradients, prior, facts.blind)

    def _cotangent(self, number: int, inputs: Tensor) -> Tensor:
        """Return the derivative of the loss by a stage's input."""
        stages = [fact.stage for fact in self.facts[number:]]
        weights = {name: weight for stage in stages for name, weight in stage.weights().items()}
        point = inputs.detach().requires_grad_()
        outputs = stages[-1].close(stage_outputs(stages, weights, point))
        return torch.autograd.grad((outputs * self.features.cotangent).sum(), point)[0]

    def _solve(
        self, equations: StageEquations, start: Tensor, limits: SolverLimits, *, is_image: bool = False
    ) -> Solution:
        def tell(_iteration: int, objective: float, values: Tensor) -> None:
            self.tell(objective, values.view(equations.unknowns.shape) if is_image else None)

        return solve(equations, start, limits, tell)
