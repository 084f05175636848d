"""Closed form for one example: the weight gradient of the first linear layer is an outer product with the input.

For z = W x + b the gradients are dW = dz x^T and db = dz, so x = dW^T db / |db|^2 (Geiping et al. 2020, arXiv
2003.14053, proposition 3.1). Without a bias, dW gives x up to a factor; the factor and its sign follow from the next
linear layer, whose weight gradient holds m * act(s W u) / (1 - p) up to a factor. Dropout behind the first layer does
not help: it removes rows of dW, and one row is enough.

Threat model: honest-but-curious server, one gradient of one example, labels given or inferred.
Fails for several examples (the answer is a mixture), when the first layer sees no raw pixels, and in scale, not in
shape, when there is no bias and the activation is as scale-free as ReLU. Noise on the gradient costs little: the sums
over all rows average it. Masks are read off zero columns, so they are returned only when the first weight gradient has
rank one up to rounding; noise, pruning and quantisation all show there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.gradient_distance import doubts, may_be_exact, verdict
from attacks.core.labels import labels_of
from attacks.core.layers import PixelLayer, examples_from, first_linear, layer_behind
from attacks.core.mask_readout_rules import read_all_masks
from attacks.core.preconditions import one_gradient_only
from attacks.core.scale_and_sign import largest_in_range, signed_scales
from attacks.core.spectrum import rank_one, spectrum
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.hooks import Attack, Effort
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step

_SCALE_FITS = 1e-3


class ClosedFormLinearConfig(Config):
    """Settings of the closed form."""

    compared_share: float = Field(
        default=0.45,
        gt=0,
        le=1,
        description="largest share of units compared to find the scale; below 1 - p under noise",
    )


@dataclass(frozen=True)
class _Found:
    input: Tensor  # (1, *shape)
    residual: float
    notes: tuple[str, ...]
    is_scaled: bool = True


@final
@attack("closed-form-linear", summary="exact input of a first linear layer, one example", paper="2003.14053")
class ClosedFormLinear(Attack[ClosedFormLinearConfig]):
    """Rank-one factor of the first weight gradient, scaled by the bias or by the next layer."""

    effort: ClassVar[Effort] = "algebra"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, several examples, and models whose first linear layer sees no flattened pixels."""
        if (observation.batch_size or 1) > 1:
            return f"the update mixes {observation.batch_size} examples; a closed form for this layer needs one"
        if first_linear(observation) is None:
            return "no linear layer sees the flattened input"
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve for the input, then compare the gradient it produces with the observed one."""
        layer = first_linear(observation)
        assert layer is not None
        labels = labels_of(observation)
        found = self._input(observation, layer)
        masks = read_all_masks(observation) if found.residual < EXACT else None
        residual = (found.residual, "rank-one residual of the first weight gradient")
        objective, meaning = verdict(observation, found.input, labels, masks, residual)
        on_step(Step(0, 1, 1, objective, objective, found.input))
        return Reconstruction(
            inputs=found.input,
            labels=labels.clone(),
            masks=masks or None,
            objective=objective,
            iterations=1,
            best_iteration=1,
            history=((1, objective),),
            stopped="solved in closed form",
            notes=(f"layer '{layer.name}' sees the pixels", *found.notes, meaning, *doubts(observation)),
            facts=_facts(observation, layer, found.residual, masks),
            is_exact=found.residual < EXACT and found.is_scaled and may_be_exact(observation, objective),
        )

    def _input(self, observation: Observation, layer: PixelLayer) -> _Found:
        weight = observation.update.tensors[f"{layer.name}.weight"].double()
        bias = observation.update.tensors.get(f"{layer.name}.bias")
        if bias is not None and bool(bias.any()):
            row = weight.T @ bias.double() / bias.double().square().sum()
            rest = torch.addr(weight, bias.double(), row, alpha=-1.0)
            residual = float(rest.norm() / weight.norm().clamp_min(LEAST))
            return _Found(examples_from(row[None], layer, observation), residual, (_residual_note(residual),))
        row, residual = rank_one(weight)
        scale, note, is_scaled = self._scale(observation, layer, row)
        found = examples_from(scale * row[None], layer, observation)
        return _Found(found, residual, (_residual_note(residual), note), is_scaled)

    def _scale(self, observation: Observation, layer: PixelLayer, row: Tensor) -> tuple[float, str, bool]:
        """Signed factor of a row (pixels,) with root mean square 1, where it comes from, and whether it is certain."""
        behind = layer_behind(observation, layer.name)
        if behind is None:
            factor = largest_in_range(examples_from(row[None], layer, observation).double(), observation)
            return float(factor), "scale guessed from the pixel range, sign unknown: no linear layer follows", False
        seen = rank_one(observation.update.tensors[f"{behind.name}.weight"].double()).row
        compared = self._compared(seen)
        outputs = _outputs(observation, layer, row)
        found = signed_scales(behind.inputs, outputs[None], compared[None], seen[None])
        if bool(found.identified):
            note = f"scale from layer '{behind.name}', residual {float(found.residuals):.1e}"
            return float(found.values), note, float(found.residuals) < _SCALE_FITS
        sign = float(found.values.sign())
        factor = largest_in_range(examples_from(sign * row[None], layer, observation).double(), observation)
        return sign * float(factor), "scale guessed from the pixel range: the activation is scale-free", False

    def _compared(self, seen: Tensor) -> Tensor:
        """Return 1 for units that are surely kept: the largest that the next layer saw. Needs no exact zeros."""
        count = max(2, round(self.config.compared_share * len(seen)))
        compared = torch.zeros_like(seen)
        compared[seen.abs().topk(min(count, len(seen))).indices] = 1.0
        return compared * (seen != 0)


def _outputs(observation: Observation, layer: PixelLayer, row: Tensor) -> Tensor:
    return observation.model.get_parameter(f"{layer.name}.weight").detach().double() @ row


def _facts(observation: Observation, layer: PixelLayer, residual: float, masks: Masks | None) -> dict[str, float]:
    """Rank of the first weight gradient; share of hidden units without a trace, where zeros can be trusted."""
    facts = {"rank-one residual": residual}
    if residual < EXACT:
        facts["numerical rank"] = 1.0
    else:
        weight = observation.update.tensors[f"{layer.name}.weight"].double()
        facts["numerical rank"] = float(spectrum(torch.linalg.svdvals(weight)).rank)
    if masks:
        facts["zero share"] = float(torch.cat([mask.flatten() for mask in masks]).eq(0).double().mean())
    return facts


def _residual_note(residual: float) -> str:
    return f"rank-one residual {residual:.1e}"
