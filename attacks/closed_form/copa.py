"""Recursion with constraints of deeper layers: one example of a chain of layers, also with ReLU and strides.

COPA (Chen, Campbell 2021, arXiv 2111.10178) solves layer after layer like R-GAP. But where the input x_l of the next
layer has fewer equations than unknowns, its estimate is no target: what is known of it are the equations C x_l = d
themselves. Since x_l = s * (W_l x + b_l) with the slopes s of activation and dropout, they are pulled back to
(C diag(s) W_l) x = d - C (s * b_l), which holds whatever the missing part of x_l is. With the gradient constraints
k_l (x) x = dW_l they make one least-squares problem, regularised by leaving out its weakest directions. A fully known
x_l gives weight constraints W_l x = z_l wherever the activation shows z_l: not at zeros of ReLU. The slopes of a
half-known x_l are those of its estimate, so the walk is repeated: gaps are then filled with what the image found before
puts into each layer, which makes it a Newton method for the curved equations. The first walk starts from a grey image.

Dropout: x = m * act(z) / (1 - p). Zeros mark dropped units, whose slopes are 0, so they leave the equations, and k is
multiplied by m / (1 - p). Masks come out with the image; behind ReLU an inactive unit reads as dropped, which explains
the gradient as well. The zeros of a half-known input show nothing, so masks in front of such a layer are guesses.
Threat model: honest-but-curious server, one exact gradient of one example, known dropout rates; labels given or not.
Fails for GELU, pooling, normalisation and residual connections, which it refuses; under noise, which every layer
amplifies; for narrow ReLU layers behind each other, where walks jump between patterns of activity; and in part where
the first layer lacks equations: the image is then one of many that fit.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.closed_form._recursion import Equations, Outputs, Recursion, RecursionConfig, Solution, recursed, refusal
from attacks.closed_form._sequential_network import Layer
from attacks.core.tolerances import LEAST
from fedsim.core.hooks import Attack, Effort
from fedsim.core.registry import attack
from fedsim.core.types import Observation, OnStep, Reconstruction


class CopaConfig(RecursionConfig):
    """Settings of COPA."""

    walks: int = Field(default=5, ge=1, description="most walks back; more than one only where equations are missing")


@final
@attack("copa", summary="one example of a chain with ReLU or strides, layer by layer (COPA)", paper="2111.10178")
class Copa(Attack[CopaConfig]):
    """Regularised least squares of weight, gradient and pulled-back constraints."""

    effort: ClassVar[Effort] = "search"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps or examples, unknown rates, and models that are no chain of layers."""
        return refusal(observation, self.config.largest_system)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Walk back; layers with too few equations are solved as far as these go, and named."""
        found = recursed(observation, self._solve, self.config.walks, on_step)
        return found.reconstruction(_stopped(found))

    def _solve(self, layer: Layer, gradient: Tensor, k: Tensor, outputs: Outputs, centre: Tensor) -> Solution:
        known = _balanced(layer.gradient_rows(k), gradient.flatten())
        further = _weight_constraints(layer, outputs) if outputs.is_complete else _pulled_back(layer, outputs)
        equations = Equations(torch.cat([known.rows, further.rows]), torch.cat([known.targets, further.targets]))
        missing = equations.targets - equations.rows @ centre
        solved = torch.linalg.lstsq(equations.rows, missing[:, None], rcond=self.config.rank_tolerance, driver="gelsd")
        values, rank = centre + solved.solution[:, 0], int(solved.rank)
        residual = float((equations.rows @ values - equations.targets).norm() / equations.targets.norm())
        return Solution(values, rank, residual, None if rank == layer.unknowns else equations)


def _stopped(found: Recursion) -> str:
    """An image is only as unique as the equations of the first layer."""
    name, rank, unknowns = found.ranks[-1]
    if rank < unknowns:
        return f"solved in part: '{name}' has {rank} independent equations for {unknowns} unknowns"
    return "solved layer by layer" if found.matches else "walks used up, the gradient is not matched"


def _balanced(rows: Tensor, targets: Tensor) -> Equations:
    """Divide by the root mean square of the rows' norms: gradients are small, and all kinds shall count alike."""
    size = (rows.norm() / len(rows) ** 0.5).clamp_min(LEAST) if len(rows) else rows.new_ones(())
    return Equations(rows / size, targets / size)


def _weight_constraints(layer: Layer, outputs: Outputs) -> Equations:
    shown = outputs.slopes != 0
    return _balanced(layer.weight_rows()[shown], (outputs.values - layer.offset)[shown])


def _pulled_back(layer: Layer, outputs: Outputs) -> Equations:
    """The next layer's equations for x_l, in terms of this layer's input, around the estimate of x_l."""
    behind = outputs.behind
    assert behind.equations is not None
    rows, slopes = behind.equations.rows, outputs.slopes
    missing = behind.equations.targets - rows @ (behind.values + slopes * (layer.offset - outputs.values))
    return _balanced((rows * slopes) @ layer.weight_rows(), missing)
