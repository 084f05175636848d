"""measured-imprint: imprint a dense layer on the outputs of earlier layers, and solve for a sparse image.

Idea: no layer is added. Convolutions, or else a dense layer, become random measurements that stay positive, so that
    ReLU does not change them. All rows of the next dense layer are equal but for their bias, so that neighbouring rows
    differ in the examples of one bin.
Equation: h = (dW_i - dW_i+1) / (db_i - db_i+1) = s (A x + b), then x = argmin ||A x - (h / s - b)||^2 / 2 + l ||D x||_1
    over the entries that dropout kept, D the differences of neighbouring pixels, s = 1 / (1 - p) or 1.
Assumes: malicious server that changes weights, not shapes, with own examples for its bins; convolutions and two dense
    layers, or three dense layers, with biases and ReLU; a single step. The rate of dropout in front of the imprint, if
    any.
Recovers: images from fewer measurements than pixels, approximately; from as many as pixels, nearly exactly.
Fails: examples that share a bin; dropout after the imprint, which spoils the differences; noise on the sent update;
    maximum pooling and normalisation (refused). Dropout in front of a measuring layer.
Source: inspired by ARES, arXiv 2603.17623, of which the abstract was read; bins as in arXiv 2110.13057.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.layers import run
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.malicious_server._generalised_lasso import generalised_lasso, neighbours
from attacks.malicious_server._imprint import HONEST, check_public, differences, hides_imprint, is_in_bins
from attacks.malicious_server._isolated_units import (
    Singles,
    exceeds_rounding,
    expected_examples,
    linear,
    reconstruction,
)
from attacks.malicious_server._linear_calls import kept_scale, lacks_bias, lacks_relu, linear_calls, probes
from attacks.malicious_server.base import CraftedUnitsAttack
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Tables
from fedsim.core.nets.layer_calls import inputs_in_order, layer_outputs, read_by
from fedsim.core.nets.masks import disable_dropout, keep_masks
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction

_LEAST = 1.0  # least output of every measuring unit, over all images
_SLACK = 0.1  # relative to the largest entry of an activation: allowed negative entries from noise
_CHUNK = 256  # images at once
_AFFINE = 1e-6  # relative to the spread of the imprint's inputs, in double precision: rounding is far below
_CONSTANT = 1e-9


class MeasuredImprintConfig(Config):
    """Settings of measured-imprint."""

    strength: float = Field(
        default=1e-3,
        gt=0,
        description="weight l of the sparse differences, for rows of A of length 1; more under noise",
    )
    iterations: int = Field(default=500, ge=1, description="of the solver")
    gain: float = Field(
        default=1000.0,
        gt=0,
        description="factor on the imprint's gradient: its rows and biases are divided by it, the columns behind it "
        "multiplied",
    )


class _Layers(NamedTuple):
    """Names of the layers that the server writes: the measuring layers, and the two linear layers after them."""

    measures: tuple[str, ...]
    imprint: str
    spread: str


class _Affine(NamedTuple):
    """A layer's input as an affine function A x + b of a flattened image x with every unit active, float64.

    Attributes:
        matrix: A, shape (m, n).
        offset: b, shape (m,).
    """

    matrix: Tensor
    offset: Tensor


@final
@attack(
    "measured-imprint",
    summary="malicious server: an imprint on measurements that are solved for images",
    tier="core",
    paper="2603.17623",
    fidelity="inspired",
    deviates="only the abstract was read; layers and bins are this project's",
)
class MeasuredImprint(CraftedUnitsAttack[MeasuredImprintConfig]):
    """Recovers inputs of a layer with weights that the server chose, and inverts the layers in front of it."""

    chance: ClassVar[float] = 0.7
    example: ClassVar[Tables] = {
        "model": {"width": 64, "bias": True, "activation": "relu", "dropout": 0.0},
        "federation": {"batch_size": 4},
    }

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with other weights and biases in the measuring layers, and in the two layers after them.

        Raises:
            NotApplicable: the model has no such layers, or the server has no suitable examples to set its bins.
        """
        check_public(public)
        layers = _layers(model, spec.shape)
        if isinstance(layers, str):
            raise NotApplicable(layers)
        for name in layers.measures:
            _measure(model, name, spec, generator)
        measured = _measure_imprint_input(model, layers.imprint, spec)
        if not _is_affine(model, layers.imprint, measured, spec):
            raise NotApplicable(
                f"the layers before '{layers.imprint}' are not affine where every unit is active: plain ReLU "
                "and average pooling are; maximum pooling, normalisation and other activations are not"
            )
        with torch.no_grad(), keep_masks(generator):
            (seen,) = read_by(model.train(), [layers.imprint], public.to(next(model.parameters())), nullcontext())
        _imprint(model, layers, seen.double(), measured, self.config.gain, generator)
        return model

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models that this attack did not craft, hidden layers, and several steps."""
        layers = _layers(observation.model, observation.spec.shape)
        if isinstance(layers, str):
            return layers
        weight, _ = linear(observation.model, layers.imprint)
        if not torch.equal(weight, weight[:1].expand_as(weight)):
            return HONEST
        return hides_imprint(observation, layers.imprint) or one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Compute the activation of every bin, and solve each for an image."""
        layers = _layers(observation.model, observation.spec.shape)
        assert not isinstance(layers, str)
        sent = observation.update.tensors[f"{layers.imprint}.weight"]
        bias = observation.update.tensors[f"{layers.imprint}.bias"]
        weight, parts = differences(sent.double()), differences(bias.double())
        hit = exceeds_rounding(parts, sent.dtype).nonzero().flatten()
        activations = weight[hit] / parts[hit, None]
        is_single = _is_in_own_bin(observation, layers, activations, hit).nonzero().flatten()
        is_single = is_single[parts[hit[is_single]].abs().argsort(descending=True, stable=True)]
        is_single = is_single[: expected_examples(observation)]  # the solver dominates the run time
        examples = self._solve_images(observation, layers, activations[is_single])
        singles = Singles(examples, hit[is_single], parts[hit[is_single]])
        measured, pixels = activations.shape[1], math.prod(observation.spec.shape)
        diagnostics = {
            "bins hit": float(len(hit)),
            "in their bin": float(len(is_single)),
            "measurements a pixel": measured / pixels,
        }
        notes = (f"layer '{layers.imprint}' holds an imprint on the measurements of {_format_layers(layers.measures)}",)
        return reconstruction(observation, layers.imprint, singles, on_step, diagnostics=diagnostics, notes=notes)

    def _solve_images(self, observation: Observation, layers: _Layers, activations: Tensor) -> Tensor:
        """Return the image of each activation (G, m), clamped to the pixel range if it is known."""
        matrix, start = _measure_imprint_input(observation.model, layers.imprint, observation.spec)
        length = matrix.norm(dim=1).mean()
        values = activations / kept_scale(observation, layers.imprint) - start
        pairs = neighbours((1, 1, *observation.spec.shape)[-3:])
        kept = _find_kept_entries(activations)
        examples = torch.empty(len(values), matrix.shape[1], dtype=torch.float64)
        for pattern in kept.unique(dim=0):  # a single pattern without dropout between the layers
            same = (kept == pattern).all(1)
            rows, part = matrix[pattern] / length, values[same][:, pattern] / length
            examples[same] = generalised_lasso(rows, part, pairs, self.config.strength, self.config.iterations)
        images = examples.view(-1, *observation.spec.shape)
        if "input-statistics" not in observation.threat.knows:
            return images
        low, high = (bound.double() for bound in pixel_box(observation))
        return images.clamp(low, high)


def _layers(model: nn.Module, shape: tuple[int, ...]) -> _Layers | str:
    """Return the measuring layers and the two linear layers after them, or why none are suitable."""
    calls = linear_calls(model, shape)
    if isinstance(calls, str):
        return calls
    names = [name for name, _ in _list_weighted_layers(model, shape)]
    convolutions = names[: names.index(calls[0].name)] if calls else names
    measures = tuple(convolutions) or tuple(call.name for call in calls[:1])
    later_calls = calls if convolutions else calls[1:]
    if len(later_calls) < len(_Layers._fields) - 1:
        return f"it needs two linear layers after the measuring layers, and the model has {len(later_calls)}"
    imprint, spread = later_calls[:2]
    unsuited = [lacks_relu(imprint, spread), *(lacks_bias(model, layer) for layer in (*measures, imprint.name))]
    return next((reason for reason in unsuited if reason is not None), _Layers(measures, imprint.name, spread.name))


def _list_weighted_layers(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[str, Tensor]]:
    """Return the convolutions and linear layers in call order, and their inputs."""
    with torch.no_grad(), disable_dropout(), inputs_in_order(model, (nn.Conv1d, nn.Conv2d, nn.Linear)) as seen:
        run(model, probes(model, shape))
    return seen


def _format_layers(names: tuple[str, ...]) -> str:
    layers = ", ".join(f"'{name}'" for name in names)
    return f"layer {layers}" if len(names) == 1 else f"the chain of layers {layers}"


@torch.no_grad()
def _measure(model: nn.Module, name: str, spec: InputSpec, generator: torch.Generator) -> None:
    """Write random rows of about length 1, with biases that keep every unit active for every image.

    Args:
        model: model with crafted layers in front of this layer.
        name: name of the layer.
        spec: specification of the images.
        generator: random source of the rows.
    """
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    units, *later_sizes = layer.weight.shape
    rows = torch.randn(units, *later_sizes, generator=generator, dtype=torch.float64) / math.sqrt(
        math.prod(later_sizes)
    )
    assert layer.bias is not None
    layer.weight.copy_(rows)
    layer.bias.zero_()
    matrix, offset = _seen_by(model, spec, lambda network, images: _given_by(network, name, images))
    low, high = (bound.flatten().double() for bound in _range(spec))
    least = (offset + torch.minimum(matrix * low, matrix * high).sum(1)).view(units, -1)
    layer.bias.copy_(_LEAST - least.amin(1))


def _given_by(model: nn.Module, name: str, images: Tensor) -> Tensor:
    with disable_dropout(), layer_outputs(model, [name]) as seen:
        model(images)
    return seen[0][1]


def _measure_imprint_input(model: nn.Module, imprint: str, spec: InputSpec) -> _Affine:
    """Return the imprint's input as an affine function of an image, with every earlier unit active."""
    return _seen_by(model, spec, lambda network, images: read_by(network, [imprint], images, disable_dropout())[0])


@torch.no_grad()
def _seen_by(model: nn.Module, spec: InputSpec, look: Callable[[nn.Module, Tensor], Tensor]) -> _Affine:
    """Return a part of the model, (N, ...) for images (N, *shape), as an affine map, from one-pixel images."""
    frozen = copy.deepcopy(model).double().eval()
    low, high = (bound.flatten().double() for bound in _range(spec))
    images = torch.cat([low[None], low + torch.diag(high - low)])
    parts = [look(frozen, part.view(-1, *spec.shape)).flatten(1) for part in images.split(_CHUNK)]
    values = torch.cat(parts)
    matrix = ((values[1:] - values[0]) / (high - low)[:, None]).T
    return _Affine(matrix, values[0] - matrix @ low)


@torch.no_grad()
def _is_affine(model: nn.Module, imprint: str, measured: _Affine, spec: InputSpec) -> bool:
    """Return whether the imprint's inputs equal the affine map on random images."""
    frozen = copy.deepcopy(model).double().eval()
    low, high = (bound.double() for bound in _range(spec))
    images = low + (high - low) * probes(frozen, spec.shape)
    read = read_by(frozen, [imprint], images, disable_dropout())[0]
    predicted = images.flatten(1) @ measured.matrix.T + measured.offset
    return float((read.flatten(1) - predicted).norm()) < _AFFINE * float((read - read.mean(0)).norm())


def _range(spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Return the least and the largest image, (*shape), each normalised."""
    shape = (-1, *[1] * (len(spec.shape) - 1))
    mean, std = (torch.tensor(statistic, dtype=torch.float64).view(shape) for statistic in (spec.mean, spec.std))
    return (-mean / std).expand(spec.shape), ((1 - mean) / std).expand(spec.shape)


@torch.no_grad()
def _imprint(
    model: nn.Module, layers: _Layers, seen: Tensor, measured: _Affine, gain: float, generator: torch.Generator
) -> None:
    """Write one row for all units, which measures brightness, and biases at quantiles of public examples.

    Args:
        model: with the measuring layers written.
        layers: layers to write.
        seen: the imprint's inputs for public examples, with dropout, shape (N, m), float64.
        measured: the imprint's input as a function of an image.
        gain: factor on the imprint's gradient.
        generator: random source of the columns after the imprint.
    """
    start = measured.offset
    row = measured.matrix.sum(1)
    row -= start * (row @ start) / (start @ start)  # else a large constant hides small differences
    places = seen @ row
    spread = places.std()
    if not spread > _CONSTANT * places.abs().mean():
        raise NotApplicable("its measurement is the same for all examples of the test set")
    row, places = row / spread, places / spread
    imprint, spread_layer = model.get_submodule(layers.imprint), model.get_submodule(layers.spread)
    assert isinstance(imprint, nn.Linear)
    assert isinstance(spread_layer, nn.Linear)
    units = imprint.out_features
    edges = places.quantile((torch.arange(units, dtype=torch.float64) + 0.5) / units)
    imprint.weight.copy_(row.expand(units, -1) / gain)
    imprint.bias.copy_(-edges / gain)
    sums = (places[:, None] - edges).relu().sum(1)
    columns = torch.randn(spread_layer.out_features, 1, generator=generator, dtype=torch.float64) / sums.std()
    spread_layer.weight.copy_(gain * columns.expand(-1, units))
    if spread_layer.bias is not None:
        spread_layer.bias.copy_(-columns[:, 0] * sums.mean())


def _is_in_own_bin(observation: Observation, layers: _Layers, activations: Tensor, hit: Tensor) -> Tensor:
    """Return the mask of activations (G, m) that lie in their own bins, and are not negative, shape (G,)."""
    weight, bias = linear(observation.model, layers.imprint)
    place = (activations * weight[hit]).sum(1) + bias[hit]
    is_active = (activations > -_SLACK * activations.abs().amax(1, keepdim=True)).all(1)
    return is_in_bins(place, bias, hit) & is_active


def _find_kept_entries(activations: Tensor) -> Tensor:
    """Return the mask of entries (G, m) that dropout kept: kept entries are at least the least output of a unit."""
    return activations > _LEAST / 2
