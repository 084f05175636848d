"""r-gap: solve a sequential network of invertible layers, from the last to the first, for small batches (R-GAP).

A linear layer's gradient alone is enough: x = dW^T k / |k|^2. For two classes without a bias the scale is the paper's
-mu / (1 + exp(mu)) = <W, dW>, and both roots are tried. The last layer's gradient separates its inputs if the batch has
fewer examples than classes; then the equations of all examples are solved together. Linear layers lose nothing by
dropout, convolutions lose rank. `copa` supports ReLU.

Idea: a layer's output and its gradient give linear equations for the layer's input; the inverse of the activation gives
    the output of the layer before. The recursion starts at the head: k_L = db, or without a bias the scale that solves
    k_L = softmax(W x) - onehot(y). For two classes it has two roots; the pixel range decides if both explain the
    gradient.
Equation: W_l x = z_l and k_l (x) x = dW_l; then z_{l-1} = act^-1(x), k_{l-1} = (W_l^T k_l) * act'(z_{l-1}).
Assumes: honest-but-curious server, an exact gradient of fewer examples than classes, known dropout rates.
Recovers: images, labels and masks: zeros mark dropped units, which lose their equations W_l x = z_l (convolutions).
Fails: activations without inverse, pooling, normalisation, residual connections (refused); convolutions with too few
    equations (reported, without an image); noise, which every layer amplifies.
Source: Zhu, Blaschko 2021, arXiv 2010.07733.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.closed_form._recursion import (
    WEAKEST,
    LayerSolution,
    Outputs,
    RecursionConfig,
    recurse,
    recursion_outlook,
    refusal,
)
from attacks.closed_form._sequential_network import SequentialLayer, chain_of
from attacks.core.results import NothingFound, no_guess
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Observation, OnStep, Reconstruction


@final
@attack(
    "r-gap",
    summary="an invertible chain, layer by layer (R-GAP)",
    tier="core",
    paper="2010.07733",
    fidelity="reproduction",
    paper_steps=(
        ("gradient at the head from the label: a scalar equation", "attacks.closed_form._heads.head_scales"),
        ("weight and gradient constraints, solved by least squares", "RGap._solve"),
        ("recursion to the layer before, through weights and activation", "attacks.closed_form._recursion._walk"),
        (
            "convolutions as sparse linear equations",
            "attacks.closed_form._sequential_network.SequentialLayer.gradient_rows",
        ),
        ("rank deficiency of a layer", "attacks.closed_form._recursion.Recursion.short"),
    ),
    aliases=("rgap",),
)
class RGap(Attack[RecursionConfig]):
    """Solves weight and gradient constraints by least squares."""

    effort: ClassVar[Effort] = "algebra"
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25, "activation": "leaky-relu"},
        "federation": {"batch_size": 1},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, as many examples as classes, unknown rates, and layers that are not invertible."""
        reason = refusal(observation, self.config.largest_system)
        if reason is not None:
            return reason
        closed = [layer.name for layer in chain_of(observation) if not layer.activation.is_invertible]
        return f"the activation behind '{closed[0]}' has no inverse; attack 'copa' needs none" if closed else None

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect one walk."""
        return recursion_outlook(observation, self.config, 1, 0.85, "every layer and activation has an inverse")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Run the recursion; give up if a layer has fewer independent equations than unknowns."""
        try:
            recursion = recurse(observation, self._solve, 1, on_step)
        except NothingFound as reason:
            return no_guess(observation, f"gave up: {reason}")
        if recursion.short is not None:
            name, rank, unknowns = recursion.short
            reason = f"gave up: '{name}' gives {rank} independent equations for {unknowns} unknowns"
            return no_guess(observation, reason, iterations=len(recursion.history), diagnostics=recursion.diagnostics)
        solved = "solved layer by layer"
        return recursion.reconstruction(
            observation, solved if recursion.matches else f"{solved}, but the gradient is not matched"
        )

    def _solve(
        self, layer: SequentialLayer, gradient: Tensor, k: Tensor, outputs: Outputs, _centre: Tensor
    ) -> LayerSolution:
        shown = outputs.slopes != 0
        gradient_rows = layer.gradient_rows(k)
        size = gradient_rows.norm() / len(gradient_rows) ** 0.5  # gives both kinds of equations the same weight
        examples = outputs.examples(layer)
        missing = outputs.values - layer.offset.repeat(examples)
        rows = torch.cat([layer.weight_rows(examples)[shown], gradient_rows / size])
        targets = torch.cat([missing[shown], gradient.flatten() / size])
        solved = torch.linalg.lstsq(rows, targets[:, None], rcond=WEAKEST, driver="gelsd")
        values = solved.solution[:, 0]
        residual = float((rows @ values - targets).norm() / targets.norm())
        return LayerSolution(values, int(solved.rank), residual)
