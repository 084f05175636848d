"""cut-inversion: solve a known bottom's equations for its input, layer by layer from the cut backwards.

Idea: a dense layer with an invertible activation is a system of linear equations, one for each kept unit; units that
    ReLU or dropout zeroed give no equation.
Equation: W_k x = act^-1(h_k (1 - p)) - b_k over kept units k, by least squares from the mean of public examples.
Assumes: a dense bottom, known at each step: a shared start, an insider, or a server that averages bottoms too.
Recovers: every input exactly that has at least as many kept units as entries.
Fails: fewer kept units: then the solution nearest to the start; convolutions; dropout inside the bottom.
Source: the algebra of dense layers; after the inversion of Luo et al. 2021, arXiv 2010.10152.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutFeatureAttack
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence

_ZERO = 1e-9  # tolerance relative to the largest value: residual of zeros after an inner layer's least squares


@final
@attack("cut-inversion", summary="inputs exactly, through a known dense bottom", tier="core", related="2010.10152")
class CutInversion(CutFeatureAttack[Config]):
    """Inverts dense layers."""

    reads: ClassVar[Evidence] = "embeddings"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"bottom"})
    uses: ClassVar[frozenset[CutKnowledge]] = frozenset({"public-data"})

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the inputs, shape (N, *shape)."""
        guesses = torch.zeros(len(view.rows), *view.shape, dtype=torch.double)
        for step in view.steps:
            is_used = torch.isin(view.rows, step.rows)
            if bool(is_used.any()):
                guesses[is_used] = _invert_bottom(
                    step.bottoms[view.party], view.sent_activations(view.rows[is_used]), view
                )
        return guesses


def _invert_bottom(bottom: nn.Module, sent: Tensor, view: CutView) -> Tensor:
    """Return the bottom's inputs for these cut-layer activations, shape (N, *shape).

    Raises:
        NotApplicable: the bottom has no dense layer, has inner dropout, or another layer that cannot be inverted.
    """
    layers = list(bottom.children())
    dense = [number for number, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    if not dense:
        raise NotApplicable("it inverts dense layers, and the bottom has none")
    if any(isinstance(layer, nn.Dropout) for layer in layers[: dense[-1]]):
        raise NotApplicable("it does not know the masks of a dropout inside the bottom")
    is_kept, values = sent != 0, sent
    for layer in reversed(layers[dense[0] :]):
        match layer:
            case nn.Dropout():
                values = values * (1 - layer.p)
            case nn.ReLU():
                is_kept = is_kept & (values > _ZERO * values.abs().max())
            case nn.LeakyReLU():
                values = torch.where(values < 0, values / layer.negative_slope, values)
            case nn.Tanh():
                values = values.clamp(-1 + _ZERO, 1 - _ZERO).atanh()
            case nn.Linear():
                values = solve_inputs(layer, values, is_kept, _start(layer, view))
                is_kept = torch.ones_like(values, dtype=torch.bool)
            case _:
                raise NotApplicable(f"it cannot undo a {type(layer).__name__}")
    return values.reshape(len(sent), *view.shape)


def _start(layer: nn.Linear, view: CutView) -> Tensor:
    """Return the start of underdetermined solutions: the mean of public inputs, or zero."""
    if view.public is None or view.public[0].numel() != layer.in_features:
        return torch.zeros(layer.in_features, dtype=torch.double)
    return view.public.flatten(1).mean(0)


def solve_inputs(layer: nn.Linear, outputs: Tensor, is_kept: Tensor, start: Tensor) -> Tensor:
    """Return the inputs nearest to a start with these kept outputs, shape (N, inputs).

    Args:
        layer: with bias.
        outputs: outputs of the layer, shape (N, outputs).
        is_kept: whether each output is known, same shape.
        start: shape (inputs,).
    """
    weights, kept = layer.weight.detach(), is_kept.double()
    missing = (outputs - layer.bias.detach() - start @ weights.T) * kept
    return start + (torch.linalg.pinv(kept[:, :, None] * weights) @ missing[:, :, None])[:, :, 0]
