"""copa: solve a sequential network from last to first layer, also with ReLU and strides, for small batches (COPA).

The slopes of a partly known input are those of its estimate, so the backward pass is repeated from the last
reconstruction (a Newton method), beginning with a grey image; the least squares truncate their weakest directions. The
last layer's gradient separates its inputs if the batch has fewer examples than classes; for the layers before it the
weights give equations per example, a layer's gradient gives equations for the sum. Iterations jump between patterns of
active units of several narrow ReLU layers. Examples of the same label have nearly parallel rows in the head's gradient.
Time grows with the cube of a convolution's unknowns.

Idea: if the next layer's input x_l is underdetermined, its equations C x_l = d are pulled back through the slopes s of
    activation and dropout, x_l = s * (W_l x + b_l). The recursion is repeated from its image.
Equation: (C diag(s) W_l) x = d - C (s * b_l) and k_l (x) x = dW_l, with k_l = dL/dz_l, by regularised least squares.
Assumes: honest-but-curious server, an exact gradient of fewer examples than classes, known dropout rates; labels
    granted or not.
Recovers: images, labels and masks. Behind ReLU an inactive unit counts as dropped: the gradient is the same. Masks in
    front of a layer with an underdetermined input are guesses.
Fails: GELU, pooling, normalisation, residual connections (refused); noise; narrow ReLU layers in a row; examples of
    equal labels without dropout; in part, a first layer with too few equations, where many images fit.
Source: Chen, Campbell 2021, arXiv 2111.10178.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.closed_form._recursion import (
    WEAKEST,
    LayerSolution,
    LinearEquations,
    Outputs,
    Recursion,
    RecursionConfig,
    recurse,
    recursion_outlook,
    refusal,
)
from attacks.closed_form._sequential_network import SequentialLayer
from attacks.core.results import NothingFound, no_guess
from attacks.core.tolerances import LEAST
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Observation, OnStep, Reconstruction


class CopaConfig(RecursionConfig):
    """Settings of COPA."""

    walks: int = Field(
        default=5, ge=1, description="maximum number of walks from each start; only missing equations need more than 1"
    )


@final
@attack(
    "copa",
    summary="a chain with ReLU or strides, layer by layer (COPA)",
    tier="core",
    paper="2111.10178",
    fidelity="variant",
    deviates="equations pulled back through the layers are solved as a regularised least-squares problem",
    paper_steps=(
        ("constraints of weights and gradient, by least squares", "Copa._solve"),
        ("constraints pulled back through the layers", "_pull_back"),
        ("non-invertible activations", "Copa._solve"),
    ),
)
class Copa(Attack[CopaConfig]):
    """Solves weight, gradient and pulled-back constraints by regularised least squares."""

    effort: ClassVar[Effort] = "search"
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25, "activation": "relu"},
        "federation": {"batch_size": 1},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, as many examples as classes, unknown rates, and models that are not sequential."""
        return refusal(observation, self.config.largest_system)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a number of walks between one and all: the geometric mean."""
        return recursion_outlook(
            observation, self.config, self.config.walks**0.5, 0.25, "ReLU and strides often leave too few equations"
        )

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Run the recursion; a layer with too few equations is solved in part, and `stop_reason` names it."""
        try:
            recursion = recurse(observation, self._solve, self.config.walks, on_step)
        except NothingFound as reason:
            return no_guess(observation, f"gave up: {reason}")
        return recursion.reconstruction(observation, _stop(recursion))

    def _solve(
        self, layer: SequentialLayer, gradient: Tensor, k: Tensor, outputs: Outputs, centre: Tensor
    ) -> LayerSolution:
        known = _balance(layer.gradient_rows(k), gradient.flatten())
        constraints = _weight_constraints(layer, outputs) if outputs.is_complete else _pull_back(layer, outputs)
        equations = LinearEquations(
            torch.cat([known.rows, constraints.rows]), torch.cat([known.targets, constraints.targets])
        )
        missing = equations.targets - equations.rows @ centre
        solved = torch.linalg.lstsq(equations.rows, missing[:, None], rcond=WEAKEST, driver="gelsd")
        values, rank = centre + solved.solution[:, 0], int(solved.rank)
        residual = float((equations.rows @ values - equations.targets).norm() / equations.targets.norm())
        return LayerSolution(values, rank, residual, None if rank == len(centre) else equations)


def _stop(recursion: Recursion) -> str:
    """Return whether the image is unique, in words: the first layer needs as many equations as unknowns."""
    name, rank, unknowns = recursion.ranks[-1]
    if rank < unknowns:
        return f"solved in part: '{name}' has {rank} independent equations for {unknowns} unknowns"
    return "solved layer by layer" if recursion.matches else "walks used up, the gradient is not matched"


def _balance(rows: Tensor, targets: Tensor) -> LinearEquations:
    """Divide by the root mean square of the rows' norms, so that all kinds of equations have the same weight."""
    size = (rows.norm() / len(rows) ** 0.5).clamp_min(LEAST) if len(rows) else rows.new_ones(())
    return LinearEquations(rows / size, targets / size)


def _weight_constraints(layer: SequentialLayer, outputs: Outputs) -> LinearEquations:
    shown = outputs.slopes != 0
    examples = outputs.examples(layer)
    missing = outputs.values - layer.offset.repeat(examples)
    return _balance(layer.weight_rows(examples)[shown], missing[shown])


def _pull_back(layer: SequentialLayer, outputs: Outputs) -> LinearEquations:
    """Return the next layer's equations as equations for this layer's input, linearised at the estimate."""
    next_layer = outputs.behind
    assert next_layer.equations is not None
    rows, slopes, examples = next_layer.equations.rows, outputs.slopes, outputs.examples(layer)
    change = next_layer.values + slopes * (layer.offset.repeat(examples) - outputs.values)
    return _balance((rows * slopes) @ layer.weight_rows(examples), next_layer.equations.targets - rows @ change)
