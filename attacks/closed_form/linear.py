"""closed-form-linear: recover a single example's input from the gradient of the first linear layer.

Idea: for a single example the weight gradient is an outer product with the input. Without a bias it gives the input up
    to a factor; the factor and its sign follow from the next layer, whose gradient holds m * act(s W u) / (1 - p).
Equation: x = dW^T db / |db|^2, since z = W x + b gives dW = dz x^T and db = dz.
Assumes: honest-but-curious server, the gradient of a single example, labels granted or inferred; the first linear layer
    reads raw pixels. Dropout after it only removes rows of dW, and a single row suffices.
Recovers: the exact image and the label; masks, from zero columns, if dW has rank one up to rounding.
Fails: several examples (refused); in scale, not in shape, without a bias and with a scale-free activation such as ReLU.
    Noise has little effect: the sums over all rows average it.
Source: Geiping et al. 2020, arXiv 2003.14053, proposition 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.core.gradient_distance import doubts, may_be_exact, verdict
from attacks.core.layers import PixelLayer, examples_from, first_linear, layer_behind
from attacks.core.mask_readout_rules import read_all_masks
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.scale_and_sign import largest_in_range, signed_scales
from attacks.core.spans import rank_one, spectrum
from attacks.core.targets.reading import label_guess
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.hooks import CostEstimate, Effort, LabelFreeAttack, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step

_SCALE_FITS = 1e-3
_COMPARED = 0.45  # largest share of units that are compared to find the scale; below 1 - p under noise


class ClosedFormLinearConfig(Config):
    """Settings of closed-form-linear."""


@dataclass(frozen=True)
class _SolvedInput:
    input: Tensor  # (1, *shape)
    residual: float
    notes: tuple[str, ...]
    is_scaled: bool = True


@final
@attack(
    "closed-form-linear",
    summary="exact input of a first linear layer; a single example",
    tier="core",
    paper="2003.14053",
    fidelity="reproduction",
    paper_steps=(("input from the gradients of weight and bias", "ClosedFormLinear._input"),),
)
class ClosedFormLinear(LabelFreeAttack[ClosedFormLinearConfig]):
    """Computes the rank-one factor of the first weight gradient, and its scale from the bias or the next layer."""

    effort: ClassVar[Effort] = "algebra"
    example: ClassVar[Tables] = {"federation": {"batch_size": 1}}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, several examples, and models without a linear layer on the flattened pixels."""
        if (observation.batch_size or 1) > 1:
            return (
                f"the update mixes {observation.batch_size} examples; the closed form of this layer needs a "
                "single example"
            )
        if first_linear(observation) is None:
            return "no linear layer sees the flattened input"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect trials of the model for masks and labels."""
        return outlook_of(observation, 60.0, 0.94, "a single example makes the first weight gradient of rank one")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve for the input, then compare its gradient with the observed gradient."""
        layer = first_linear(observation)
        assert layer is not None
        solved = self._input(observation, layer)
        masks = read_all_masks(observation) if solved.residual < EXACT else None
        labels, read = label_guess(observation, solved.input, masks)
        residual = (solved.residual, "rank-one residual of the first weight gradient")
        objective, meaning = verdict(observation, solved.input, labels, masks, residual)
        on_step(Step(0, 1, 1, objective, objective, solved.input))
        return Reconstruction.of(
            inputs=solved.input,
            labels=labels,
            masks=masks or None,
            objective=objective,
            iterations=1,
            stop_reason="solved in closed form",
            notes=(f"layer '{layer.name}' sees the pixels", *solved.notes, meaning, *read, *doubts(observation)),
            diagnostics=_facts(observation, layer, solved.residual, masks),
            is_exact=solved.residual < EXACT and solved.is_scaled and may_be_exact(observation, objective),
        )

    def _input(self, observation: Observation, layer: PixelLayer) -> _SolvedInput:
        weight = observation.update.tensors[f"{layer.name}.weight"].double()
        bias = observation.update.tensors.get(f"{layer.name}.bias")
        if bias is not None and bool(bias.any()):
            row = weight.T @ bias.double() / bias.double().square().sum()
            unexplained = torch.addr(weight, bias.double(), row, alpha=-1.0)
            residual = float(unexplained.norm() / weight.norm().clamp_min(LEAST))
            return _SolvedInput(examples_from(row[None], layer, observation), residual, (_residual_note(residual),))
        row, residual = rank_one(weight)
        scale, note, is_scaled = self._scale(observation, layer, row)
        examples = examples_from(scale * row[None], layer, observation)
        return _SolvedInput(examples, residual, (_residual_note(residual), note), is_scaled)

    def _scale(self, observation: Observation, layer: PixelLayer, row: Tensor) -> tuple[float, str, bool]:
        """Return the signed factor of a row (pixels,) of root mean square 1, a note, and whether it is certain."""
        next_layer = layer_behind(observation, layer.name)
        if next_layer is None:
            factor = largest_in_range(examples_from(row[None], layer, observation).double(), observation)
            return float(factor), "scale guessed from the pixel range, sign unknown: no linear layer follows", False
        seen = rank_one(observation.update.tensors[f"{next_layer.name}.weight"].double()).row
        compared = self._compare(seen)
        outputs = _outputs(observation, layer, row)
        scales = signed_scales(next_layer.inputs, outputs[None], compared[None], seen[None])
        if bool(scales.is_identified):
            note = f"scale from layer '{next_layer.name}', residual {float(scales.residuals):.1e}"
            return float(scales.values), note, float(scales.residuals) < _SCALE_FITS
        sign = float(scales.values.sign())
        factor = largest_in_range(examples_from(sign * row[None], layer, observation).double(), observation)
        return sign * float(factor), "scale guessed from the pixel range: the activation is scale-free", False

    def _compare(self, seen: Tensor) -> Tensor:
        """Return 1 for units that are surely kept: the largest inputs of the next layer. This needs no exact zeros."""
        count = max(2, round(_COMPARED * len(seen)))
        compared = torch.zeros_like(seen)
        compared[seen.abs().topk(min(count, len(seen))).indices] = 1.0
        return compared * (seen != 0)


def _outputs(observation: Observation, layer: PixelLayer, row: Tensor) -> Tensor:
    return observation.model.get_parameter(f"{layer.name}.weight").detach().double() @ row


def _facts(observation: Observation, layer: PixelLayer, residual: float, masks: Masks | None) -> dict[str, float]:
    """Return the rank of the first weight gradient, and the share of zeros in the masks if masks were recovered."""
    diagnostics = {"rank-one residual": residual}
    if residual < EXACT:
        diagnostics["numerical rank"] = 1.0
    else:
        weight = observation.update.tensors[f"{layer.name}.weight"].double()
        diagnostics["numerical rank"] = float(spectrum(torch.linalg.svdvals(weight)).rank)
    if masks:
        diagnostics["zero share"] = float(torch.cat([mask.flatten() for mask in masks]).eq(0).double().mean())
    return diagnostics


def _residual_note(residual: float) -> str:
    return f"rank-one residual {residual:.1e}"
