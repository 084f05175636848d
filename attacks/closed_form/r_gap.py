"""Recursive procedure: one example of a chain of layers, solved from the last layer to the first.

R-GAP (Zhu, Blaschko 2021, arXiv 2010.07733): knowing the output z_l and its gradient k_l, the input of layer l solves
the linear equations W_l x = z_l (weight constraints) and k_l (x) x = dW_l (gradient constraints); then
z_{l-1} = act^-1(x) and k_{l-1} = (W_l^T k_l) * act'(z_{l-1}). A linear layer's gradient suffices alone,
x = dW^T k / |k|^2. The head starts it: with a bias k_L = db; without one the scale of k_L solves
softmax(W x) - onehot(y) = k_L, for two classes the paper's -mu / (1 + exp(mu)) = <W, dW> with two roots, both tried.
Where both explain the whole gradient, as in networks of two classes without any bias, the pixel range decides.
All in float64. Each convolution's number of independent equations is compared with its unknowns.

Dropout: x = m * act(z) / (1 - p). Zeros mark dropped units; they lose their weight constraints and k is multiplied by
m / (1 - p), so the masks come out with the image. Linear layers lose nothing, convolutions lose rank.
Threat model: honest-but-curious server, one exact gradient of one example, known dropout rates; labels given or not.
Fails for activations without inverse (ReLU, GELU), pooling, normalisation and residual connections, which it refuses;
for convolutions with too few equations, which it reports, without an image; under noise, which every layer amplifies.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.closed_form._recursion import Outputs, RecursionConfig, Solution, recursed, refusal
from attacks.closed_form._sequential_network import Layer, chain_of
from attacks.core.results import no_guess
from fedsim.core.hooks import Attack, Effort
from fedsim.core.registry import attack
from fedsim.core.types import Observation, OnStep, Reconstruction


class RGapConfig(RecursionConfig):
    """Settings of R-GAP."""


@final
@attack(
    "r-gap", summary="one example of an invertible chain, layer by layer (R-GAP)", paper="2010.07733", aliases=("rgap",)
)
class RGap(Attack[RGapConfig]):
    """Least squares of weight and gradient constraints."""

    effort: ClassVar[Effort] = "algebra"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps or examples, unknown rates, and models that are no chain of invertible layers."""
        reason = refusal(observation, self.config.largest_system)
        if reason is not None:
            return reason
        closed = [layer.name for layer in chain_of(observation) if not layer.activation.is_invertible]
        return f"the activation behind '{closed[0]}' has no inverse; copa works without one" if closed else None

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Walk back; give up when a layer has fewer independent equations than unknowns."""
        found = recursed(observation, self._solve, 1, on_step)
        if found.short is not None:
            name, rank, unknowns = found.short
            reason = f"gave up: '{name}' gives {rank} independent equations for {unknowns} unknowns"
            return no_guess(observation, reason, iterations=len(found.history), facts=found.facts)
        solved = "solved layer by layer"
        return found.reconstruction(solved if found.matches else f"{solved}, but the gradient is not matched")

    def _solve(self, layer: Layer, gradient: Tensor, k: Tensor, outputs: Outputs, _centre: Tensor) -> Solution:
        shown = outputs.slopes != 0
        gradient_rows = layer.gradient_rows(k)
        size = gradient_rows.norm() / len(gradient_rows) ** 0.5  # gradients are small; both kinds shall count alike
        rows = torch.cat([layer.weight_rows()[shown], gradient_rows / size])
        targets = torch.cat([(outputs.values - layer.offset)[shown], gradient.flatten() / size])
        solved = torch.linalg.lstsq(rows, targets[:, None], rcond=self.config.rank_tolerance, driver="gelsd")
        values = solved.solution[:, 0]
        residual = float((rows @ values - targets).norm() / targets.norm())
        return Solution(values, int(solved.rank), residual)
