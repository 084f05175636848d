"""trap-weights: set first-layer weights that keep most units inactive, so that many are active for a single example.

Entries are at random positions, for pixels in [0, 1]; the normalisation of the inputs is folded into weights and bias.
Mixtures differ from row to row, so guesses are sorted by the number of agreeing rows. A guess is dropped if it leaves
the pixel range, or would not activate its own row.

Idea: half of each row's entries are negative and slightly outweigh the positive half, so a unit with a ReLU is active
    only if bright pixels are under its positive weights. A row that is active for a single example holds that example.
Equation: x = dW_r / db_r; negative entries -|N(0, spread)|, positive entries `positive_scale` times as large, bias 0.
Assumes: malicious server that changes weights, not shapes; a first linear layer on all pixels with bias and ReLU. It
    needs no data; labels need not be known; single updates or a round's mean. It keeps the guesses on which most rows
    agree.
Recovers: exact images. Dropout after the layer helps, since it isolates examples, but then labels are guesses.
Fails: large batches of bright or similar images, which come out mixed (a smaller `positive_scale` helps); noise;
    dropout in front of the layer (refused).
Source: Boenisch et al. 2023, arXiv 2112.02918.
"""

from __future__ import annotations

import copy
import math
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.layers import PixelLayer, examples_from, first_linear, flat_layers
from attacks.core.preconditions import one_gradient_only
from attacks.malicious_server._isolated_units import (
    Singles,
    distinct,
    exceeds_rounding,
    expected_examples,
    is_in_pixel_range,
    linear,
    reconstruction,
)
from attacks.malicious_server.base import CraftedUnitsAttack
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import disable_dropout, dropout_sites
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction

_PROBE = 2
_AGREEMENT = 1e-3
_ONE_IMAGE = 0.99  # cosine of two inputs that count as the same example


class TrapWeightsConfig(Config):
    """Settings of the trap weights."""

    spread: float = Field(default=0.5, gt=0, description="standard deviation of the normal distribution of magnitudes")
    positive_scale: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="size of positive entries relative to negative ones; if smaller, units fire less often",
    )
    range_tolerance: float = Field(
        default=0.05, ge=0, description="how far pixels may leave [0, 1] before a guess is dropped as a mixture"
    )


@final
@attack(
    "trap-weights",
    summary="malicious server: first-layer weights that fire seldom",
    tier="core",
    paper="2112.02918",
    fidelity="reproduction",
    paper_steps=(
        ("rows with a negative half that outweighs the positive half", "_trap_rows"),
        ("examples from rows that a single example activates", "TrapWeights.search"),
    ),
    aliases=("curious-abandon-honesty",),
)
class TrapWeights(CraftedUnitsAttack[TrapWeightsConfig]):
    """Solves every row of a first layer with weights that the server chose."""

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with other weights and biases in its first linear layer.

        Raises:
            NotApplicable: no linear layer reads all pixels, or it lacks a bias or a ReLU after it.
        """
        layer = next(iter(flat_layers(model, spec.shape, dropout_sites(model, spec.shape, _PROBE), _PROBE)), None)
        if layer is None:
            raise NotApplicable("no linear layer sees the flattened input")
        module = model.get_submodule(layer.name)
        assert isinstance(module, nn.Linear)
        if module.bias is None:
            raise NotApplicable(f"its first layer '{layer.name}' has no bias (for model 'mlp' set bias = true)")
        if not _is_rectified(model, layer.name, spec.shape):
            raise NotApplicable(
                f"units of its first layer '{layer.name}' are never inactive, since no ReLU follows (for model 'mlp' "
                "set activation = 'relu')"
            )
        rows = _trap_rows(module.out_features, module.in_features, self.config, generator)
        mean, std = _expand_statistics(layer, spec)
        with torch.no_grad():
            module.weight.copy_(rows * std)
            module.bias.copy_(rows @ mean)
        return model

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, and observations without the first layer's gradient."""
        layer = first_linear(observation)
        if layer is None:
            return "no linear layer sees the flattened input"
        if f"{layer.name}.bias" not in observation.update.tensors:
            return f"the server does not see the bias gradient of layer '{layer.name}'"
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve every row, and keep the guesses on which most rows agree."""
        layer = first_linear(observation)
        assert layer is not None
        sent = observation.update.tensors[f"{layer.name}.weight"]
        bias = observation.update.tensors[f"{layer.name}.bias"].double()
        fired = exceeds_rounding(bias, sent.dtype).nonzero().flatten()
        rows = sent.double()[fired] / bias[fired, None]
        examples = examples_from(rows, layer, observation)
        plausible = is_in_pixel_range(examples, observation, self.config.range_tolerance).nonzero().flatten()
        singles = Singles(examples, fired, bias[fired]).select(plausible)
        rows = rows[plausible]
        kept, agreed = distinct(singles, rows, linear(observation.model, layer.name), *_compare_guesses(rows))
        size = expected_examples(observation)
        diagnostics = {"rows that fired": float(len(fired)), "examples seen in several rows": float(agreed)}
        if size is not None:
            diagnostics["share of rows that fired"] = len(fired) / len(bias)
        notes = (f"layer '{layer.name}' sees the pixels",)
        return reconstruction(
            observation, layer.name, singles.select(kept), on_step, diagnostics=diagnostics, notes=notes
        )


def _trap_rows(units: int, entries: int, config: TrapWeightsConfig, generator: torch.Generator) -> Tensor:
    """Return weights for pixels in [0, 1], shape (units, entries), float64; one entry is 0 if their number is odd."""
    magnitudes = config.spread * torch.randn(units, entries // 2, generator=generator, dtype=torch.float64).abs()
    rows = torch.cat([-magnitudes, config.positive_scale * magnitudes, magnitudes.new_zeros(units, entries % 2)], 1)
    places = torch.rand(units, entries, generator=generator, dtype=torch.float64).argsort(1)
    return torch.zeros_like(rows).scatter(1, places, rows)


def _expand_statistics(layer: PixelLayer, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Return the normalisation's mean and standard deviation for each entry of the layer's input, (n,), float64."""
    channels = layer.pixels[0] // (math.prod(spec.shape) // spec.shape[0])
    return tuple(torch.tensor(values, dtype=torch.float64)[channels] for values in (spec.mean, spec.std))  # type: ignore[return-value]


@torch.enable_grad()
def _is_rectified(model: nn.Module, layer: str, shape: tuple[int, ...]) -> bool:
    """Return whether the layer's outputs have a gradient exactly where they are positive."""
    model = copy.deepcopy(model).double().train()
    module = model.get_submodule(layer)
    width = len(model.get_parameter(f"{layer}.weight"))
    signs = torch.ones(_PROBE, width, dtype=torch.float64)
    signs[:, ::2] = -1.0
    given = signs.clone().requires_grad_()
    module.register_forward_hook(lambda _module, _inputs, _output: given)
    with disable_dropout():
        outputs = model(torch.zeros(_PROBE, *shape, dtype=torch.float64))
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (slopes,) = torch.autograd.grad((outputs * weights).sum(), [given])
    return not bool(slopes[signs < 0].any()) and bool(slopes[signs > 0].any())


def _compare_guesses(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masks of guesses (G, n) that agree, and of guesses that show the same example, both (G, G)."""
    norms = rows.norm(dim=1)
    cosines = (rows @ rows.T) / (norms[:, None] * norms)
    return torch.cdist(rows, rows) <= _AGREEMENT * norms[:, None], cosines > _ONE_IMAGE
