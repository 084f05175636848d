"""Servers that craft weights: the library's attacks as they are, and servers that know the check and hide from it.

What a server can recover is counted for its best reading: the quotient of every row, and of differences of neighbouring
rows where these are nested. Which of them are examples it need not find out, so the count is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmarks._honest_models import MODELS
from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.types import Batch, Dataset
from fedsim.scenario import Choice
from fedsim.scenario.data import load_dataset

_BINS = 512
_RECOVERED = 25.0  # dB
_SMALLEST = 1e-6  # share of the largest bias gradient below which a quotient is rounding


class Sent(NamedTuple):
    """A model as a server sends it.

    Attributes:
        layer: name of the crafted linear layer, the first on pixels where the server is honest.
        order: its rows, so that neighbours are nested; empty where rows are read one by one.
        scales: the factor of each row, of which gradients hold the inverse.
    """

    model: nn.Module
    data: Dataset
    layer: str
    order: Tensor
    scales: Tensor


class Server(NamedTuple):
    """A server: its name, whether it knows the check, and what makes its model from randomness."""

    name: str
    is_informed: bool
    send: Callable[[torch.Generator], Sent]


def _bare(kind: str, generator: torch.Generator) -> tuple[nn.Module, Dataset]:
    settings, data = MODELS[kind]
    dataset = load_dataset(data)
    with seeding.isolate_randomness(int(torch.randint(1 << 30, (), generator=generator))):
        return cast("nn.Module", Choice.model_validate(settings).make("model", dataset.spec)).train(), dataset


def _honest(kind: str, layer: str) -> Callable[[torch.Generator], Sent]:
    def send(generator: torch.Generator) -> Sent:
        model, data = _bare(kind, generator)
        return Sent(model, data, layer, torch.empty(0, dtype=torch.long), torch.ones(1))

    return send


def _make_sender(kind: str, layer: str, nested: bool, name: str, **settings: Any) -> Callable[[torch.Generator], Sent]:
    def send(generator: torch.Generator) -> Sent:
        model, data = _bare(kind, generator)
        method = registry.get("attack", name)
        attack = cast("Attack[Any]", method.make(method.config.model_validate(settings)))
        crafted = attack.craft(model, data.spec, data.test.inputs, generator).train()
        rows = len(crafted.get_parameter(f"{layer}.weight"))
        return Sent(crafted, data, layer, torch.arange(rows if nested else 0), torch.ones(rows))

    return send


def _shuffle_imprint(generator: torch.Generator) -> Sent:
    """Scale and permute the rows of a nested imprint: every unit fires as before."""
    sent = _make_sender("lenet", "0.1", True, "robbing-the-fed")(generator)
    measure, spread = (cast("nn.Linear", sent.model.get_submodule(f"0.{place}")) for place in (1, 3))
    order = torch.randperm(_BINS, generator=generator)
    scales = torch.rand(_BINS, generator=generator) + 0.5
    with torch.no_grad():
        measure.weight.copy_((measure.weight * scales[:, None])[order])
        measure.bias.copy_((measure.bias * scales)[order])
        spread.weight.copy_((spread.weight / scales)[:, order])
    return sent._replace(order=order.argsort(), scales=scales[order])


def _slabs(noise: float, share: float, units: int = _BINS) -> Callable[[torch.Generator], Sent]:
    """Return a server whose units are active in slabs that hold this share of examples, each in its own direction.

    Args:
        noise: of a direction relative to the one that all share; infinite: they share none.
        share: of the examples in a slab.
        units: number of slabs.
    """

    def send(generator: torch.Generator) -> Sent:
        model, data = _bare("lenet", generator)
        public, entries = data.test.inputs.flatten(1).double(), math.prod(data.spec.shape)
        common = torch.ones(entries, dtype=torch.float64) / entries**0.5
        noises = torch.randn(units, entries, generator=generator, dtype=torch.float64) / entries**0.5
        rows = noises if math.isinf(noise) else common + noise * noises
        rows = rows / rows.norm(dim=1, keepdim=True)
        lows, highs = _bounds(public @ rows.T, share, generator)
        steep = (1 / (highs - lows)).clamp_max(10 * (1 / (highs - lows)).median())
        measure, spread = nn.Linear(entries, units), nn.Linear(units, entries, bias=False)
        with torch.no_grad():
            measure.weight.copy_(rows * steep[:, None])
            measure.bias.copy_(-lows * steep)
        block = nn.Sequential(nn.Flatten(), measure, nn.Hardtanh(0.0, 1.0), spread, nn.Unflatten(1, data.spec.shape))
        return Sent(nn.Sequential(block, model), data, "0.1", torch.empty(0, dtype=torch.long), torch.ones(units))

    return send


def _bounds(values: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the ends of each unit's slab: at a random quantile, of eight the one nearest to 0, for small biases."""
    starts = torch.rand(8, values.shape[1], generator=generator, dtype=torch.float64) * (1 - share)
    ordered = values.sort(0).values
    last = len(values) - 1
    lows = ordered.gather(0, (starts * last).long())
    nearest = lows.abs().argmin(0, keepdim=True)
    highs = ordered.gather(0, ((starts + share) * last).long().clamp_max(last))
    return lows.gather(0, nearest)[0], highs.gather(0, nearest)[0] + 1e-9


def _quantile_biases(share: float, rows: float) -> Callable[[torch.Generator], Sent]:
    """Return a server that leaves weights as initialised, and lets units fire for a share of the examples.

    Args:
        share: of the examples for which a unit fires.
        rows: share of the units that it changes.
    """

    def send(generator: torch.Generator) -> Sent:
        sent = _honest("mlp", "1")(generator)
        layer = cast("nn.Linear", sent.model.get_submodule("1"))
        with torch.no_grad():
            values = sent.data.test.inputs.flatten(1) @ layer.weight.T
            count = int(rows * len(layer.bias))
            layer.bias[:count] = -values[:, :count].quantile(1 - share, dim=0)
        return sent

    return send


def _loose_traps(generator: torch.Generator) -> Sent:
    """Draw trap weights whose signs are independent: as many are negative as chance says."""
    sent = _honest("mlp", "1")(generator)
    layer, spec = cast("nn.Linear", sent.model.get_submodule("1")), sent.data.spec
    with torch.no_grad():
        rows = 0.5 * torch.randn(layer.weight.shape, generator=generator)
        rows = torch.where(rows > 0, 0.8 * rows, rows)
        layer.weight.copy_(rows * spec.std[0])
        layer.bias.copy_(rows.sum(1) * spec.mean[0])
    return sent


def servers() -> list[Server]:
    """Return honest servers as controls, the attacks as they are, and servers that know the check."""
    many = float("inf")
    return [
        Server("honest, MLP", False, _honest("mlp", "1")),
        Server("robbing-the-fed, dense", False, _make_sender("lenet", "0.1", True, "robbing-the-fed")),
        Server(
            "robbing-the-fed, sparse", False, _make_sender("lenet", "0.1", False, "robbing-the-fed", variant="sparse")
        ),
        Server("certified-bins", False, _make_sender("lenet", "0.measure", False, "certified-bins", bins=_BINS // 2)),
        Server("trap-weights", False, _make_sender("mlp", "1", False, "trap-weights")),
        Server("robbing-the-fed, rows scaled and permuted", True, _shuffle_imprint),
        *(
            Server(f"slabs, {_BINS} of share 1/{_BINS}, row noise {noise:g}", True, _slabs(noise, 1 / _BINS))
            for noise in (0.1, 0.3, 1.0, 3.0)
        ),
        Server("slabs, 16 of share 1/16, row noise 0", True, _slabs(0.0, 1 / 16, 16)),
        Server("slabs, 512 of share 1/512, no common direction", True, _slabs(many, 1 / 512)),
        Server("slabs, 512 of share 1/64, no common direction", True, _slabs(many, 1 / 64)),
        Server("slabs, 512 of share 1/16, no common direction", True, _slabs(many, 1 / 16)),
        Server("trap-weights, signs by chance, positive 0.8", True, _loose_traps),
        Server("quantile biases, share 1/16, all rows", True, _quantile_biases(1 / 16, 1.0)),
        Server("quantile biases, share 1/16, 45 % of rows", True, _quantile_biases(1 / 16, 0.45)),
    ]


def recovered_flags(sent: Sent, batch: Batch) -> list[bool]:
    """Return of each example of a batch whether some quotient of the batch's gradient equals it, above 25 dB."""
    layer = cast("nn.Linear", sent.model.get_submodule(sent.layer))
    with seeding.isolate_randomness(0):
        loss = cross_entropy(sent.model(batch.inputs), batch.labels)
        weight, bias = (slope.double() for slope in torch.autograd.grad(loss, [layer.weight, layer.bias]))
    rows = torch.cat([weight, bias[:, None]], 1) * sent.scales[:, None]
    if len(sent.order):
        nested = rows[sent.order]
        rows = torch.cat([rows, nested[:-1] - nested[1:]])
    rows = rows[rows[:, -1].abs() > _SMALLEST * rows[:, -1].abs().max()]
    if not len(rows):  # no unit was active
        return [False] * len(batch)
    guesses, truth = rows[:, :-1] / rows[:, -1:], batch.inputs.flatten(1).double()
    errors = torch.cdist(truth, guesses) ** 2 / truth.shape[1] * sent.data.spec.std[0] ** 2
    return (-10 * errors.amin(1).log10() > _RECOVERED).tolist()
