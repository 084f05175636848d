"""gauss-newton: solves the equations g(x) = g* of an update by Levenberg-Marquardt steps.

Idea: an update holds far more equations than inputs; second-order steps converge in a few iterations where gradient
    descent stalls. ReLU(z) becomes g z with unknown switches g, so that the equations are smooth.
Equation: (J^T J + c I) s = J^T r, with r = w (g* - g(x)), J = w dg/dx, w = 1 / |g*_l| for each tensor l.
Assumes: honest-but-curious server, more entries than unknowns; labels granted or inferred; dropout rates known if the
    model has dropout; several local steps of SGD if each uses all examples.
Recovers: the inputs up to rounding, and the dropout masks; under noise of a declared distribution the most probable
    inputs.
Fails: for maximum pooling, which it refuses; in local minima; if noise, pruning, hidden tensors or the switches of many
    ReLUs leave too few equations.
Source: Levenberg 1944; Marquardt 1963. The equations are those of Zhu, Liu, Han 2019, arXiv 1906.08935.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.batches import OrderedGuess, order_guess
from attacks.core.defense_facts import bound_of, noise_of, sends_part
from attacks.core.gradient_distance import doubts, gradient_distance, knows_rates, may_be_exact
from attacks.core.labels import examples_of
from attacks.core.outlooks import GRADIENTS_OF_A_STEP, outlook_of
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import gradient_steps_only
from attacks.core.progress import shift_progress
from attacks.core.targets.reading import labels_to_search
from attacks.core.tolerances import MATCHES
from attacks.second_order._equations import Equations
from attacks.second_order._feature_start import starts_from_features
from attacks.second_order._layout import UnknownsLayout, masks_to_solve
from attacks.second_order._levenberg_marquardt import CONVERGED, STUCK, Solution, SolverLimits, solve
from attacks.second_order._open_directions import leave_open
from attacks.second_order._patterns import pattern_near
from attacks.second_order._smoothness import refuse_kinks
from attacks.second_order._switches import keep_own_masks, switch_units
from fedsim.core.errors import NotApplicable
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import CostEstimate, Effort, LabelFreeAttack
from fedsim.core.nets.masks import expected_mask
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step
from fedsim.core.types.effects import ClippedParts, SignsOnly

Box = tuple[Tensor, Tensor]
_EXPECTED = 5  # steps that lead to a solution
_NORMS = (pytorch.BatchNorm, nn.GroupNorm)
_FEW, _MEDIUM = 20, 49_000_000  # steps, and entries of the Jacobian, within a budget of minutes
_SMALL = 512  # unknowns with which several starts need seconds within such a budget
# Margins of the solved switches, in root mean squares of a ReLU's input; narrow again once the image is sharper.
_MARGINS = (0.1, 0.2, 0.4, 0.1, 0.2, 0.8)
_NEAR = 8  # steps within a margin: a wrong switch shows by then, and further steps only fit it
_FAR = 0.2  # 1 - cosine above which too many switches differ from the guess
_OPEN = "the equations hold for other examples too: entries of the update depend on each other"
_START = 0.1  # standard deviation of the first inputs: near grey, where smooth units are not saturated


class GaussNewtonConfig(Config):
    """Settings of the solver."""

    max_iterations: int = Field(
        default=60,
        ge=1,
        description="most steps to a start and from it, with pixels in their range; then as many without",
    )
    restarts: int = Field(default=3, ge=1, description="most starts; the first that solves the equations ends it")
    max_restart_unknowns: int = Field(
        default=20_000, ge=0, description="maximum number of unknowns for more than one start"
    )
    products: int = Field(
        default=400, ge=1, description="matrix-free: most iterations of conjugate gradients a step, two products each"
    )
    largest: int = Field(default=20_000, ge=1, description="most unknowns: entries of examples and of unknown masks")
    dense: int = Field(
        default=120_000_000,
        ge=0,
        description="maximum number of entries of the Jacobian (8 bytes each); a larger Jacobian is never formed",
    )
    gradients: int | None = Field(
        default=None,
        ge=1,
        description="most gradients of a search, after its first step; a column of the Jacobian counts as one",
    )


class _Budget:
    """Gradients that a search may still compute."""

    def __init__(self, gradients: int | None) -> None:
        self._left, self._is_new = math.inf if gradients is None else gradients, True

    def allow_steps(self, wanted: int, cost: int) -> int:
        """Return how many of the wanted steps fit, each of `cost` gradients; at least one for a new search."""
        return int(min(wanted, max(self._left // cost, self._is_new)))

    def spend(self, gradients: int) -> None:
        """Subtract gradients."""
        self._left, self._is_new = self._left - gradients, False


@final
@attack(
    "gauss-newton",
    summary="solves the gradient's equations by second-order steps",
    tier="core",
    related="1906.08935",
    aliases=("levenberg-marquardt",),
)
class GaussNewton(LabelFreeAttack[GaussNewtonConfig]):
    """Levenberg-Marquardt on the equations of an update."""

    effort: ClassVar[Effort] = "second-order"
    accepts_initial_guess: ClassVar[bool] = True

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates that are not smooth functions of the unknowns, or have fewer equations than unknowns."""
        reason = gradient_steps_only(observation) or _refuse_batches(observation) or _refuse_defenses(observation)
        reason = reason or self._refuse_size(observation, observation)  # before a large model is tried
        reason = reason or _refuse_labels(observation)
        if reason is not None:
            return reason
        smooth, switches = _smooth(observation)
        return _refuse_masks(observation, switches) or self._refuse_size(observation, smooth) or refuse_kinks(smooth)

    def _refuse_size(self, observation: Observation, smooth: Observation) -> str | None:
        """Return why the number of unknowns is too large, or None."""
        equations = _count_equations(observation)
        unknowns = UnknownsLayout(smooth, masks_to_solve(smooth)).size
        if unknowns > self.config.largest:
            return f"{unknowns} unknowns exceed the setting 'largest' ({self.config.largest})"
        if equations < unknowns and noise_of(observation) is None:
            return f"the update holds {equations} equations for {unknowns} unknowns"
        return None

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return a single start, or several for small problems, and no Jacobian that needs minutes to square.

        The budget counts steps of descents, each of which costs several gradients.
        """
        return {
            "max_restart_unknowns": _SMALL,
            "max_iterations": _FEW,
            "products": max(1, gradients // (2 * _FEW)),
            "dense": _MEDIUM,
            "gradients": round(GRADIENTS_OF_A_STEP * gradients),
        }

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a few steps, whose Jacobian has a column for each entry of the examples and of unknown masks."""
        examples, masks = examples_of(observation), sum(math.prod(site.shape) for site in observation.sites)
        unknowns = examples * math.prod(observation.spec.shape) + masks * observation.local_steps
        count = sum(tensor.numel() for tensor in observation.update.tensors.values())
        is_dense = count * unknowns <= self.config.dense
        gradients = _EXPECTED * (unknowns if is_dense else 2 * self.config.products)
        if any(isinstance(module, _NORMS) for module in observation.model.modules()):
            return outlook_of(observation, gradients, 0.1, "norms make all layers nonlinear at once")
        return outlook_of(observation, gradients, 0.5, "an update holds more equations than unknowns")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve from several starts, and report the best solution."""
        labels = labels_to_search(observation)
        smooth, switches = _smooth(observation)
        unknowns = UnknownsLayout(smooth, masks_to_solve(smooth))
        equations = Equations(smooth, unknowns, labels)
        tried: list[_Attempt] = []
        restarts = self.config.restarts if unknowns.size <= self.config.max_restart_unknowns else 1
        budget = _Budget(self.config.gradients)
        starts = _starts(observation, equations, labels, generator, switches, self.config.max_iterations)
        for start, box in islice(starts, restarts):
            if tried and not budget.allow_steps(1, self._cost(equations)):
                break
            solution = self._solve(equations, start, box, _continued_report(tried, on_step), budget)
            tried.append(_Attempt(equations, solution))
            if solution.objective <= equations.tolerable:
                break
        return _report(observation, labels, tried, switches)

    def search_from(
        self, observation: Observation, guess: Reconstruction, generator: torch.Generator, on_step: OnStep
    ) -> Reconstruction:
        """Solve from another attack's images; missing examples start near grey."""
        labels = labels_to_search(observation)
        begun = _begun(observation, guess, labels, generator)
        smooth, switches = _smooth(observation)
        if switches:
            return self._continue_pattern(observation, begun, labels, on_step)
        unknowns = UnknownsLayout(smooth, masks_to_solve(smooth))
        equations = Equations(smooth, unknowns, labels)
        masks = begun.masks or tuple(expected_mask(site) for site in observation.sites)
        start = unknowns.start_at(begun.inputs, masks).to(equations.prior_mean)
        budget = _Budget(self.config.gradients)
        solution = self._solve(equations, start, _box(observation, equations), on_step, budget)
        return _report(observation, labels, [_Attempt(equations, solution)], ())

    def _continue_pattern(
        self, observation: Observation, begun: OrderedGuess, labels: Tensor, on_step: OnStep
    ) -> Reconstruction:
        """Solve with switches as they are at a guess, and switches near their kink unknown.

        The margin grows from solution to solution, until it holds every wrong switch of the guess; then it starts again
        from a sharper image. Pixels are not clamped to their range: so close to a solution, clamped steps lead away
        from it.
        """
        _refuse_far(observation, begun, labels)
        smooth, switches = switch_units(observation)
        tried: list[_Attempt] = []
        inputs, budget = begun.inputs, _Budget(self.config.gradients)
        for margin in _MARGINS:
            pattern = pattern_near(observation, smooth, switches, inputs, begun.masks, margin)
            equations = Equations(smooth, UnknownsLayout(smooth, (pattern.masks,)), labels)
            start = equations.unknowns.start_at(inputs, pattern.start).to(equations.prior_mean)
            steps = budget.allow_steps(min(_NEAR, self.config.max_iterations), self._cost(equations))
            if not steps:
                break
            solution = self._solve_once(equations, start, None, _continued_report(tried, on_step), steps)
            budget.spend(self._cost(equations) * len(solution.history))
            tried.append(_Attempt(equations, solution))
            if solution.has_converged:
                break
            inputs = tried[-1].unpack()[0]
        return _report(observation, labels, tried, switches)

    def _cost(self, equations: Equations) -> int:
        """Return the gradients of a step: the columns of its Jacobian, or two products for each iteration."""
        is_dense = equations.count * equations.unknowns.size <= self.config.dense
        return equations.unknowns.size if is_dense else 2 * self.config.products

    def _solve(
        self, equations: Equations, start: Tensor, box: Box | None, on_step: OnStep, budget: _Budget
    ) -> Solution:
        """Solve with pixels clamped to their range, if known. If that does not converge, continue without the range."""
        cost, limit = self._cost(equations), self.config.max_iterations
        first = self._solve_once(equations, start, box, on_step, budget.allow_steps(limit, cost))
        budget.spend(cost * len(first.history))
        steps = budget.allow_steps(limit, cost)
        if box is None or first.has_converged or not steps:
            return first
        on_later_step = shift_progress(on_step, done=len(first.history), best=first.objective)
        second = self._solve_once(equations, first.values, None, on_later_step, steps)
        budget.spend(cost * len(second.history))
        return second._replace(history=(*first.history, *second.history))

    def _solve_once(
        self, equations: Equations, start: Tensor, box: Box | None, on_step: OnStep, iterations: int
    ) -> Solution:
        config, unknowns = self.config, equations.unknowns
        converged = 0.0 if equations.is_noisy else equations.expected
        limits = SolverLimits(iterations, config.products, config.dense, converged, box)
        limit = 2 * config.max_iterations * config.restarts

        def tell(iteration: int, objective: float, values: Tensor) -> None:
            guess = values[: unknowns.pixels].view(-1, *unknowns.shape).float()
            shown = _scale(equations) * objective
            on_step(Step(0, iteration, limit, shown, shown, guess))

        solution = solve(equations, start, limits, tell)
        is_done = not equations.is_noisy and solution.stop_reason == STUCK and solution.objective < equations.tolerable
        if is_done or solution.has_converged:
            return solution._replace(stop_reason=CONVERGED)
        return solution._replace(matrix=None)  # unused from here on, and up to a gigabyte


def _starts(
    observation: Observation,
    equations: Equations,
    labels: Tensor,
    generator: torch.Generator,
    switches: tuple[int, ...],
    steps: int,
) -> Iterator[tuple[Tensor, Box | None]]:
    """Yield starts without end: for a smooth model from the features of every example, else near grey.

    Starts near grey come with the pixel range. For starts from features it would clamp steps to a nearby solution.
    """
    if not switches:
        yield from ((start, None) for start in starts_from_features(observation, equations, labels, generator, steps))
    while True:
        start = equations.unknowns.start(generator, _START).to(equations.prior_mean)
        yield start, _box(observation, equations)


def _begun(observation: Observation, guess: Reconstruction, labels: Tensor, generator: torch.Generator) -> OrderedGuess:
    """Return a guess as a start, with noise for missing examples."""
    if len(guess.inputs) > len(labels):
        raise NotApplicable(f"the guess holds {len(guess.inputs)} examples, not {len(labels)}")
    begun = order_guess(observation, guess, labels)
    noise = _START * torch.randn(begun.inputs.shape, generator=generator, dtype=torch.float64)
    is_found = begun.are_found.view(-1, *[1] * (noise.ndim - 1))
    return begun._replace(inputs=torch.where(is_found, begun.inputs.double(), noise))


def _refuse_far(observation: Observation, begun: OrderedGuess, labels: Tensor) -> None:
    """Refuse a guess that determines too few switches.

    Raises:
        NotApplicable: its gradient is too far from the observed gradient, or the update has several steps.
    """
    if observation.local_steps > 1:
        raise NotApplicable("switches of several steps are not fixed by a guess")
    masks = begun.masks or tuple(expected_mask(site) for site in observation.sites)
    distance = gradient_distance(observation, begun.inputs.to(next(observation.model.parameters())), labels, masks)
    if distance > _FAR:
        raise NotApplicable(f"the guess's gradient is too far from the observed one (1 - cosine: {distance:.2f})")


def _box(observation: Observation, equations: Equations) -> Box | None:
    """Return the range of normalised pixels for the unknowns; None under noise, or if it is unknown."""
    if equations.is_noisy or "input-statistics" not in observation.threat.knows:
        return None
    least, greatest = pixel_box(observation)
    return least.to(equations.prior_mean), greatest.to(equations.prior_mean)


def _smooth(observation: Observation) -> tuple[Observation, tuple[int, ...]]:
    """Return the observation, with ReLUs as unknown switches if its gradient has kinks, and the switches' sites."""
    return (observation, ()) if refuse_kinks(observation) is None else switch_units(observation)


def _count_equations(observation: Observation) -> int:
    """Return the number of entries that depend on the unknowns; a tensor of zeros, as behind a zero head, has none."""
    is_part, tensors = sends_part(observation), observation.update.tensors.values()
    return sum(int(tensor.count_nonzero()) if is_part or not tensor.any() else tensor.numel() for tensor in tensors)


def _refuse_batches(observation: Observation) -> str | None:
    """Return why the local steps are not all on the same examples, or None."""
    size = examples_of(observation)
    if any(batch_size != size for batch_size in observation.batch_sizes or ()):
        return f"the local steps see parts of {size} examples in an order that is not known"
    strange = [site.name for site in observation.sites if site.shape[0] % size]
    return f"the dropout mask of '{strange[0]}' does not begin with the examples" if strange else None


def _refuse_labels(observation: Observation) -> str | None:
    """Return why labels that are not classes are unknown, or None."""
    if observation.task.label_kind == "class":
        return None
    try:
        labels_to_search(observation)
    except NotApplicable as reason:
        return str(reason)
    return None


def _refuse_masks(observation: Observation, switches: tuple[int, ...]) -> str | None:
    """Return why dropout masks cannot be solved for, or None."""
    if observation.masks is None:
        return None if knows_rates(observation) else "the model drops out at rates that are not known"
    if switches and observation.sites:
        return "masks are granted, and cannot be separated from the switches of ReLU"
    return None


def _refuse_defenses(observation: Observation) -> str | None:
    """Return the known defense that leaves no equations, as a clause, or None."""
    for known in observation.known_methods:
        for effect in known.effects:
            if isinstance(effect, SignsOnly):
                return f"the defense '{known.source}' sends signs alone"
            if isinstance(effect, ClippedParts):
                return f"the defense '{known.source}' clips single examples"
    if bound_of(observation) is not None and observation.update.kind == "delta":
        return "a defense clips the change of weights"
    return None


def _scale(equations: Equations) -> float:
    """Return the factor from a sum of squares to half the mean over tensors (under noise, over entries).

    Near a solution without noise the scaled objective is 1 - cosine.
    """
    return 0.5 / (equations.count if equations.is_noisy else equations.tensors)


class _Attempt(NamedTuple):
    """Equations and their solution from one start."""

    equations: Equations
    solution: Solution

    def unpack(self) -> tuple[Tensor, tuple[Masks, ...]]:
        """Return examples (B, *shape) and masks of every step."""
        unknowns = self.equations.unknowns
        (whole,) = unknowns.split(1)
        inputs, steps = whole.unpack(self.solution.values[whole.places], unknowns.shape)
        return inputs.detach(), steps


def _continued_report(tried: Sequence[_Attempt], on_step: OnStep) -> OnStep:
    solutions = [attempt.solution for attempt in tried]
    done, best = (
        sum(len(solution.history) for solution in solutions),
        min((solution.objective for solution in solutions), default=math.inf),
    )
    return shift_progress(on_step, restarts=len(tried), done=done, best=best)


def _report(
    observation: Observation, labels: Tensor, tried: Sequence[_Attempt], switches: tuple[int, ...]
) -> Reconstruction:
    best = min(tried, key=lambda solved: solved.solution.objective)
    equations, solution = best
    scale, (inputs, steps) = _scale(equations), best.unpack()
    inputs = inputs.to(next(observation.model.parameters()))
    masks = _take_masks(observation, steps, switches)
    is_open = solution.has_converged and _is_open(equations, solution)
    return Reconstruction.of(
        inputs,
        labels,
        masks=masks,
        objective=scale * solution.objective,
        iterations=sum(len(attempt.solution.history) for attempt in tried),
        best_iteration=len(solution.history),
        history=[(number, scale * value) for number, value in enumerate(solution.history, 1)],
        stop_reason=solution.stop_reason,
        notes=(*_note(observation, equations, solution, switches), *((_OPEN,) if is_open else ())),
        diagnostics={
            "unknowns": equations.unknowns.size,
            "equations": equations.count,
            "restarts": len(tried),
            "steps of the best restart": len(solution.history),
            "examples separate": float(len(equations.parts) == equations.unknowns.examples),
        },
        is_exact=solution.has_converged
        and may_be_exact(observation, scale * solution.objective)
        and (not switches or _holds(observation, inputs, labels, masks))
        and not is_open,
    )


def _is_open(equations: Equations, solution: Solution) -> bool:
    """Return whether the equations hold for other examples too; False for large Jacobians, which are not formed.

    Dependent entries are dependent anywhere, so the last matrix shows them, though it was formed some steps away.
    """
    return solution.matrix is not None and leave_open(solution.matrix, equations.unknowns.pixels)


def _note(observation: Observation, equations: Equations, best: Solution, switches: tuple[int, ...]) -> tuple[str, ...]:
    path = "the Jacobian was formed" if best.is_dense else "matrix-free, by conjugate gradients"
    measure = "entries, in units of the noise" if equations.is_noisy else "tensors, each relative to its norm"
    relu = (f"units of {len(switches)} ReLUs were solved for as switches between 0 and 1",) if switches else ()
    return (path, *relu, f"objective: half the mean squared residual of the {measure}", *doubts(observation))


def _holds(observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks | None) -> bool:
    """Return whether the model's own gradient at a guess found with switches equals the observed gradient."""
    if observation.local_steps > 1:
        return False
    return gradient_distance(observation, inputs, labels, masks or ()) < MATCHES


def _take_masks(observation: Observation, steps: tuple[Masks, ...], switches: tuple[int, ...]) -> Masks | None:
    """Return the dropout masks of a single step in the model's precision, or None."""
    if not observation.sites or len(steps) != 1:
        return None
    (masks,) = steps
    like = next(observation.model.parameters())
    return tuple(mask.detach().to(like) for mask in keep_own_masks(masks, switches))
