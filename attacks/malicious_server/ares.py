"""ares: imprint the second layer on what the first one measures, and solve the measurement for a sparse image.

Idea: no layer is added. The first layer becomes random measurements that a ReLU leaves as they are; all rows of the
    second one are alike but for their bias, so that neighbours differ in the examples of one bin, as in an imprint.
Equation: h = (dW_i - dW_i+1) / (db_i - db_i+1) = s (A x + b), then x = argmin ||A x - (h / s - b)||^2 / 2 + l ||D x||_1
    over the entries that dropout kept, D the differences of neighbouring pixels, s = 1 / (1 - p) or 1.
Assumes: malicious server that changes weights, not shapes, with own examples for its bins; three linear layers with
    biases and ReLU, the first on the pixels; one step. The rate of dropout between the first two, if there is any.
Recovers: images from fewer measurements than pixels, approximately; from as many as pixels, nearly exactly.
Fails: examples that share a bin; dropout behind the second layer, which spoils the differences; noise on the wire.
Source: after arXiv 2603.17623, of which the abstract was read; layers and bins are our own. Bins: arXiv 2110.13057.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.layers import run
from attacks.core.preconditions import one_gradient_only
from attacks.core.regularizers import pixel_box
from attacks.malicious_server._generalised_lasso import generalised_lasso, neighbours
from attacks.malicious_server._imprint import HONEST, check_public, differences, hides_imprint, in_bins
from attacks.malicious_server._isolated_units import Singles, above_rounding, expected_examples, linear, reconstruction
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, Effort, Tables
from fedsim.core.layer_calls import inputs_in_order, layer_outputs, read_by
from fedsim.core.masks import keep_masks, without_dropout
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction, View

_PROBES = 4
_FEWEST_LAYERS = 3
_SLACK = 0.1  # of the largest entry of an activation, below which an entry counts as 0
_CONSTANT = 1e-9


class AresConfig(Config):
    """Settings of the attack."""

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
    """Names of the three linear layers that the server writes."""

    measure: str
    imprint: str
    spread: str


@final
@attack("ares", summary="malicious server: an imprint on measurements that are solved for images", related="2603.17623")
class Ares(Attack[AresConfig]):
    """Reads activations off a layer whose weights the server chose, and inverts the layer in front of it."""

    effort: ClassVar[Effort] = "algebra"
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    crafts: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "model": {"width": 64, "bias": True, "activation": "relu", "dropout": 0.0},
        "federation": {"batch_size": 4},
    }

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with other weights and biases in its first three linear layers.

        Raises:
            NotApplicable: it has no such layers, or the server has no examples to place its bins by.
        """
        check_public(public)
        layers = _layers(model, spec.shape)
        if isinstance(layers, str):
            raise NotApplicable(layers)
        _measure(model.get_submodule(layers.measure), spec, generator)
        with torch.no_grad(), keep_masks(generator):
            (seen,) = read_by(model.train(), [layers.imprint], public.to(next(model.parameters())), nullcontext())
        _imprint(model, layers, seen.double(), self.config.gain, generator)
        return model

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse other models than its own, hidden layers, and several steps."""
        layers = _layers(observation.model, observation.spec.shape)
        if isinstance(layers, str):
            return layers
        weight, _ = linear(observation.model, layers.imprint)
        if not torch.equal(weight, weight[:1].expand_as(weight)):
            return HONEST
        return hides_imprint(observation, layers.imprint) or one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Read every bin, and solve each activation for an image."""
        layers = _layers(observation.model, observation.spec.shape)
        assert not isinstance(layers, str)
        sent = observation.update.tensors[f"{layers.imprint}.weight"]
        bias = observation.update.tensors[f"{layers.imprint}.bias"]
        weight, parts = differences(sent.double()), differences(bias.double())
        hit = above_rounding(parts, sent.dtype).nonzero().flatten()
        activations = weight[hit] / parts[hit, None]
        own = _in_own_bin(observation, layers, activations, hit).nonzero().flatten()
        own = own[parts[hit[own]].abs().argsort(descending=True, stable=True)]
        own = own[: expected_examples(observation)]  # the solver is what takes time
        examples = self._solved(observation, layers, activations[own])
        singles = Singles(examples, hit[own], parts[hit[own]])
        measured, pixels = observation.model.get_parameter(f"{layers.measure}.weight").shape
        facts = {
            "bins hit": float(len(hit)),
            "in their bin": float(len(own)),
            "measurements a pixel": measured / pixels,
        }
        notes = (f"layer '{layers.imprint}' holds an imprint on what layer '{layers.measure}' measures",)
        return reconstruction(observation, layers.imprint, singles, on_step, facts=facts, notes=notes)

    def _solved(self, observation: Observation, layers: _Layers, activations: Tensor) -> Tensor:
        """Return the image of each activation (G, m), within the pixel range where that is known."""
        weight, start = linear(observation.model, layers.measure)
        length = weight.norm(dim=1).mean()
        values = activations / _kept_scale(observation, layers) - start
        pairs = neighbours((1, 1, *observation.spec.shape)[-3:])
        kept = _kept(activations)
        examples = torch.empty(len(values), weight.shape[1], dtype=torch.float64)
        for pattern in kept.unique(dim=0):  # one for all, without dropout between the layers
            same = (kept == pattern).all(1)
            rows, part = weight[pattern] / length, values[same][:, pattern] / length
            examples[same] = generalised_lasso(rows, part, pairs, self.config.strength, self.config.iterations)
        found = examples.view(-1, *observation.spec.shape)
        if "input-statistics" not in observation.threat.knows:
            return found
        low, high = (bound.double() for bound in pixel_box(observation))
        return found.clamp(low, high)


def _layers(model: nn.Module, shape: tuple[int, ...]) -> _Layers | str:
    """Return the first three linear layers, or why they do not suit."""
    try:
        device = next(model.parameters())
        probe = torch.rand((_PROBES, *shape), generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad(), without_dropout(), inputs_in_order(model, (nn.Linear,)) as seen:
            names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
            with layer_outputs(model, names) as outputs:
                run(model, probe)
    except (RuntimeError, TypeError) as error:
        return f"the model does not run on an image: {error}"
    if len(seen) < _FEWEST_LAYERS:
        return f"it needs three linear layers, and the model has {len(seen)}"
    layers = _Layers(*(name for name, _ in seen[:3]))
    read, gave = [own for _, own in seen[:3]], [own for _, own in outputs[:2]]
    if read[0].shape != probe.flatten(1).shape or not torch.equal(read[0], probe.flatten(1)):
        return f"the first linear layer '{layers.measure}' does not read the pixels"
    for name, before, behind in zip(layers[:2], gave, read[1:], strict=True):
        if not torch.equal(before.relu(), behind):
            return f"behind layer '{name}' stands no plain ReLU (for model 'mlp' set activation = 'relu')"
    for name in layers:
        if model.get_submodule(name).bias is None:
            return f"layer '{name}' has no bias (for model 'mlp' set bias = true)"
    return layers


@torch.no_grad()
def _measure(layer: nn.Module, spec: InputSpec, generator: torch.Generator) -> None:
    """Write random rows of about length 1, with biases that keep every unit active for every image of pixels."""
    assert isinstance(layer, nn.Linear)
    units, entries = layer.weight.shape
    rows = torch.randn(units, entries, generator=generator, dtype=torch.float64) / math.sqrt(entries)
    channels = entries // len(spec.mean)
    mean, std = (torch.tensor(own, dtype=torch.float64).repeat_interleave(channels) for own in (spec.mean, spec.std))
    low, high = -mean / std, (1 - mean) / std
    least = torch.minimum(rows * low, rows * high).sum(1)
    layer.weight.copy_(rows)
    layer.bias.copy_(1 - least)


@torch.no_grad()
def _imprint(model: nn.Module, layers: _Layers, seen: Tensor, gain: float, generator: torch.Generator) -> None:
    """Write one row for all units, which measures how bright an image is, and biases at quantiles of public examples.

    Args:
        model: with the first layer written.
        layers: whose weights are written.
        seen: what the second layer reads of public examples, dropout drawn, shape (N, m), float64.
        gain: factor on the imprint's gradient.
        generator: of the columns behind the imprint.
    """
    weight, start = linear(model, layers.measure)
    row = weight.sum(1)
    row -= start * (row @ start) / (start @ start)  # else a large constant hides small differences
    places = seen @ row
    spread = places.std()
    if not spread > _CONSTANT * places.abs().mean():
        raise NotApplicable("its measurement is the same for all examples of the test set")
    row, places = row / spread, places / spread
    imprint, behind = model.get_submodule(layers.imprint), model.get_submodule(layers.spread)
    assert isinstance(imprint, nn.Linear)
    assert isinstance(behind, nn.Linear)
    units = imprint.out_features
    edges = places.quantile((torch.arange(units, dtype=torch.float64) + 0.5) / units)
    imprint.weight.copy_(row.expand(units, -1) / gain)
    imprint.bias.copy_(-edges / gain)
    sums = (places[:, None] - edges).relu().sum(1)
    columns = torch.randn(behind.out_features, 1, generator=generator, dtype=torch.float64) / sums.std()
    behind.weight.copy_(gain * columns.expand(-1, units))
    behind.bias.copy_(-columns[:, 0] * sums.mean())


def _in_own_bin(observation: Observation, layers: _Layers, activations: Tensor, hit: Tensor) -> Tensor:
    """Return which activations (G, m) lie in the bins from which they were read, and are not negative, shape (G,)."""
    weight, bias = linear(observation.model, layers.imprint)
    place = (activations * weight[hit]).sum(1) + bias[hit]
    is_active = (activations > -_SLACK * activations.abs().amax(1, keepdim=True)).all(1)
    return in_bins(place, bias, hit) & is_active


def _kept(activations: Tensor) -> Tensor:
    """Return which entries (G, m) dropout kept: every unit is active, so an entry near 0 was dropped."""
    return activations > _SLACK * activations.amax(1, keepdim=True)


@torch.no_grad()
def _kept_scale(observation: Observation, layers: _Layers) -> float:
    """Return how much larger dropout makes what it keeps, by the rate that the attacker's model has."""
    probe = torch.zeros(1, *observation.spec.shape).to(next(observation.model.parameters()))
    model, generator = observation.model.train(), torch.Generator().manual_seed(0)
    (whole,) = read_by(model, [layers.imprint], probe, without_dropout())
    with keep_masks(generator):
        (dropped,) = read_by(model, [layers.imprint], probe, nullcontext())
    return float((dropped / whole).max())
