"""gauss-newton: solves the equations g(x) = g* of an update by Levenberg-Marquardt steps.

Idea: an update holds far more equations than inputs; second-order steps converge in a few where descent stalls. ReLU(z)
    becomes g z with unknown switches g, so that the equations are smooth.
Equation: (J^T J + c I) s = J^T r, with r = w (g* - g(x)), J = w dg/dx, w = 1 / |g*_l| for each tensor l.
Assumes: honest-but-curious server, more entries than unknowns; labels granted or inferred; dropout rates known where
    the model drops out; several local steps of SGD where each sees all examples.
Recovers: the inputs up to rounding, and the dropout masks; under noise of a stated law the most probable inputs.
Fails: for maximum pooling, which it refuses; in local minima; where noise, pruning, hidden tensors or the switches of
    many ReLUs leave too few equations.
Source: Levenberg 1944; Marquardt 1963. The equations are those of Zhu, Liu, Han 2019, arXiv 1906.08935.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import bound_of, noise_of, sends_part
from attacks.core.gradient_distance import doubts, gradient_distance, knows_rates, may_be_exact
from attacks.core.labels import examples_of, labels_of
from attacks.core.preconditions import gradient_steps_only
from attacks.core.progress import continued
from attacks.core.regularizers import pixel_box
from attacks.core.tolerances import MATCHES
from attacks.second_order._equations import Equations
from attacks.second_order._layout import Layout, masks_to_solve
from attacks.second_order._levenberg_marquardt import Limits, Solution, solve
from attacks.second_order._smoothness import refuse_kinks
from attacks.second_order._switches import keep_own_masks, switch_units
from fedsim.core.hooks import Attack, Effort
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step

Box = tuple[Tensor, Tensor]
_FEW, _MEDIUM = 20, 49_000_000  # steps, and entries of the Jacobian, within a budget of minutes
_START = 0.1  # standard deviation of the first inputs: near grey, where smooth units are not saturated


class GaussNewtonConfig(Config):
    """Settings of the solver."""

    old_names: ClassVar[Mapping[str, str]] = {"iterations": "max_iterations"}
    max_iterations: int = Field(
        default=60, ge=1, description="most steps from one start, with pixels in their range; then as many without"
    )
    restarts: int = Field(default=3, ge=1, description="most starts; the first that solves the equations ends it")
    products: int = Field(
        default=400, ge=1, description="matrix-free: most iterations of conjugate gradients a step, two products each"
    )
    largest: int = Field(default=20_000, ge=1, description="most unknowns: entries of examples and of unknown masks")
    dense: int = Field(
        default=120_000_000,
        ge=0,
        description="most entries of the Jacobian; a larger one is never formed (8 bytes an entry)",
    )


@final
@attack(
    "gauss-newton",
    summary="solves the gradient's equations by second-order steps",
    related="1906.08935",
    aliases=("levenberg-marquardt",),
)
class GaussNewton(Attack[GaussNewtonConfig]):
    """Levenberg-Marquardt on the equations of an update."""

    effort: ClassVar[Effort] = "second-order"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates that are no smooth function of the unknowns, or hold fewer equations than unknowns."""
        reason = gradient_steps_only(observation) or _refuse_batches(observation) or _refuse_defenses(observation)
        reason = reason or self._refuse_size(observation, observation)  # before a large model is tried
        if reason is not None:
            return reason
        smooth, switches = _smooth(observation)
        return _refuse_masks(observation, switches) or self._refuse_size(observation, smooth) or refuse_kinks(smooth)

    def _refuse_size(self, observation: Observation, smooth: Observation) -> str | None:
        """Return that there are too many unknowns, or None."""
        equations = _count_equations(observation)
        unknowns = Layout(smooth, masks_to_solve(smooth)).size
        if unknowns > self.config.largest:
            return f"there are {unknowns} unknowns, more than the setting 'largest' ({self.config.largest})"
        if equations < unknowns and noise_of(observation) is None:
            return f"the update holds {equations} equations for {unknowns} unknowns"
        return None

    @classmethod
    def within(cls, gradients: int) -> dict[str, Any]:
        """Return one start, of about so many products, and no Jacobian that takes minutes to square."""
        return {"restarts": 1, "max_iterations": _FEW, "products": max(1, gradients // (2 * _FEW)), "dense": _MEDIUM}

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve from one start after the other, and report the best solution."""
        labels = labels_of(observation)
        smooth, switches = _smooth(observation)
        unknowns = Layout(smooth, masks_to_solve(smooth))
        equations = Equations(smooth, unknowns, labels)
        box = None if equations.is_noisy else _box(observation, equations)
        solutions: list[Solution] = []
        for restart in range(self.config.restarts):
            start = unknowns.start(generator, _START).to(equations.prior_mean)
            best = min((one.objective for one in solutions), default=float("inf"))
            told = continued(on_step, restarts=restart, done=sum(len(s.history) for s in solutions), best=best)
            solutions.append(self._solve(equations, start, box, told))
            if solutions[-1].objective <= equations.expected:
                break
        return _report(observation, equations, labels, solutions, switches)

    def _solve(self, equations: Equations, start: Tensor, box: Box | None, on_step: OnStep) -> Solution:
        """Solve with pixels in their range, then without it if that does not end at a solution."""
        if box is None:
            return self._solve_once(equations, start, None, on_step)
        first = self._solve_once(equations, start, box, on_step)
        if first.has_converged:
            return first
        later = continued(on_step, done=len(first.history), best=first.objective)
        second = self._solve_once(equations, first.values, None, later)
        return second._replace(history=(*first.history, *second.history))

    def _solve_once(self, equations: Equations, start: Tensor, box: Box | None, on_step: OnStep) -> Solution:
        config, unknowns = self.config, equations.unknowns
        converged = 0.0 if equations.is_noisy else equations.expected
        limits = Limits(config.max_iterations, config.products, config.dense, converged, box)
        most = 2 * config.max_iterations * config.restarts

        def tell(iteration: int, objective: float, values: Tensor) -> None:
            guess = values[: unknowns.pixels].view(-1, *unknowns.shape).float().cpu()
            shown = _scale(equations) * objective
            on_step(Step(0, iteration, most, shown, shown, guess))

        return solve(equations, start, limits, tell)


def _box(observation: Observation, equations: Equations) -> Box | None:
    """Return the range of normalised pixels in which the unknowns are kept, or None where it is not known."""
    if "input-statistics" not in observation.threat.knows:
        return None
    least, greatest = pixel_box(observation)
    return least.to(equations.prior_mean), greatest.to(equations.prior_mean)


def _smooth(observation: Observation) -> tuple[Observation, tuple[int, ...]]:
    """Return the observation, with ReLUs as unknown switches where its gradient jumps, and which sites are switches."""
    return (observation, ()) if refuse_kinks(observation) is None else switch_units(observation)


def _count_equations(observation: Observation) -> int:
    tensors = observation.update.tensors.values()
    return sum(int(own.count_nonzero()) if sends_part(observation) else own.numel() for own in tensors)


def _refuse_batches(observation: Observation) -> str | None:
    """Return why the local steps are not all on the same examples, or None."""
    size = examples_of(observation)
    if any(own != size for own in observation.batch_sizes or ()):
        return f"the local steps see parts of {size} examples in an order that is not known"
    strange = [site.name for site in observation.sites if site.shape[0] % size]
    return f"the dropout mask of '{strange[0]}' does not begin with the examples" if strange else None


def _refuse_masks(observation: Observation, switches: tuple[int, ...]) -> str | None:
    """Return why dropout masks cannot be solved for, or None."""
    if observation.masks is None:
        return None if knows_rates(observation) else "the model drops out at rates that are not known"
    if switches and observation.sites:
        return "masks are granted, and are not told apart from the switches of ReLU"
    return None


def _refuse_defenses(observation: Observation) -> str | None:
    """Return which known defense leaves no equations, or None."""
    for known in observation.public:
        if known.facts.get("signs", False):
            return f"the defense '{known.source}' sends signs alone"
        if "clip" in known.facts:
            return f"the defense '{known.source}' clips single examples"
    if bound_of(observation) is not None and observation.update.kind == "delta":
        return "a defense clips the change of weights"
    return None


def _scale(equations: Equations) -> float:
    """Return what makes a sum of squares the mean over tensors (under noise, over entries), halved.

    Near a solution without noise that is 1 - cosine.
    """
    return 0.5 / (equations.count if equations.is_noisy else equations.tensors)


def _report(
    observation: Observation,
    equations: Equations,
    labels: Tensor,
    solutions: list[Solution],
    switches: tuple[int, ...],
) -> Reconstruction:
    best = min(solutions, key=lambda one: one.objective)
    unknowns, scale = equations.unknowns, _scale(equations)
    (whole,) = unknowns.split(1)
    inputs, steps = whole.unpack(best.values[whole.places], unknowns.shape)
    inputs = inputs.detach().to(next(observation.model.parameters()))
    masks = _take_masks(observation, steps, switches)
    return Reconstruction.of(
        inputs,
        labels,
        masks=masks,
        objective=scale * best.objective,
        iterations=sum(len(one.history) for one in solutions),
        best_iteration=len(best.history),
        history=[(number, scale * value) for number, value in enumerate(best.history, 1)],
        stopped=best.stopped,
        notes=_note(observation, equations, best, switches),
        facts={
            "unknowns": unknowns.size,
            "equations": equations.count,
            "restarts": len(solutions),
            "steps of the best restart": len(best.history),
            "examples separate": float(len(equations.parts) == unknowns.examples),
        },
        is_exact=best.has_converged
        and may_be_exact(observation, scale * best.objective)
        and (not switches or _holds(observation, inputs, labels, masks)),
    )


def _note(observation: Observation, equations: Equations, best: Solution, switches: tuple[int, ...]) -> tuple[str, ...]:
    path = "the Jacobian was formed" if best.is_dense else "matrix-free, by conjugate gradients"
    measure = "entries, in units of the noise" if equations.is_noisy else "tensors, each relative to its norm"
    relu = (f"units of {len(switches)} ReLUs were solved for as switches between 0 and 1",) if switches else ()
    return (path, *relu, f"objective: half the mean squared residual of the {measure}", *doubts(observation))


def _holds(observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks | None) -> bool:
    """Say whether the model itself has the observed gradient at a guess that was found with switches."""
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
