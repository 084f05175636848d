"""The check of received weights: false alarms on 200 honest models, and what crafting servers recover in spite of it.

Honest models are fresh with eight initialisations, trained on digits, pruned and quantised. A server's line says how
often the check refuses its model, and which share of a batch of 16 digits could be read from what a client without the
check sends. Informed servers know the check. The share is counted for the server's best reading: the quotient of every
row, and of differences of neighbouring rows where these are nested. Which quotients are examples the server need not
find out, so the share is an upper bound.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from benchmarks._victims import make_attack
from defenses.received.server_check import BoundedFigure, ServerCheck, ServerCheckConfig
from fedsim.core import seeding
from fedsim.core.hooks import HookContext, LocalStep
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.types import Batch, Dataset
from fedsim.scenario import Choice
from fedsim.scenario.data import load_dataset

_CHECK = ServerCheck(ServerCheckConfig())
_BATCH = 16
_TRIALS, _LONG_TRIALS = 20, 100
_SMALL = Choice(name="digits")
_LARGE = Choice(name="mnist5k", settings={"size": 32})
_MODELS: Mapping[str, tuple[dict[str, Any], Choice]] = {
    "mlp": ({"name": "mlp", "width": 128, "depth": 2, "bias": True, "activation": "relu"}, _SMALL),
    "lenet": ({"name": "lenet"}, _LARGE),
    "convnet": ({"name": "convnet", "width": 16}, _LARGE),
    "vit-small": ({"name": "vit-small", "width": 64, "heads": 4, "blocks": 2, "hidden": 128}, _LARGE),
    "resnet18": ({"name": "resnet18"}, _LARGE),
}
_SEEDS = (1, 2)
_STAGES = {"mlp": (20, 200, 2000), "lenet": (20, 100, 500), "convnet": (20, 100, 300), "vit-small": (20, 100, 300)}
_SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_BITS = (8, 6, 5, 4, 3, 2)
_TRAINING_BATCH, _RATE = 64, 2e-3
_BINS = 512
_RECOVERED = 25.0  # dB
_SMALLEST = 1e-6  # share of the largest bias gradient below which a quotient is rounding


_INITIALISATIONS: Mapping[str, Callable[[Tensor], Tensor] | None] = {
    "as the model says": None,
    "Xavier uniform": nn.init.xavier_uniform_,
    "Xavier normal": nn.init.xavier_normal_,
    "He uniform": nn.init.kaiming_uniform_,
    "He normal": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
    "normal, 0.02": lambda weight: nn.init.normal_(weight, std=0.02),
    "truncated normal, 0.02": lambda weight: nn.init.trunc_normal_(weight, std=0.02),
}


class Honest(NamedTuple):
    """An honest model: what was done to it, what it reads, and itself."""

    group: str
    data: Dataset
    model: nn.Module


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
    order: Tensor = torch.empty(0, dtype=torch.long)
    scales: Tensor = torch.ones(1)


class Server(NamedTuple):
    """A server: its name, whether it knows the check, and what makes its model from randomness."""

    name: str
    is_informed: bool
    send: Callable[[torch.Generator], Sent]


@experiment("server-check", minutes=10, page="defenses/server-check")
def server_check(budget: Budget) -> Cells:
    """Return the cell of honest models, then one for each server."""
    by_name = {_name(server): partial(_server_rows, server, budget.full) for server in servers()}
    return {"honest models": lambda: _false_alarms([*honest_models()]), **by_name}


def _name(server: Server) -> str:
    return f"{server.name}{' (informed)' if server.is_informed else ''}"


def _false_alarms(models: Sequence[Honest]) -> Iterator[Row]:
    refused = [
        _beyond(honest.model, batch_of(honest.data, number, _BATCH), number) for number, honest in enumerate(models)
    ]
    signals = Counter(signal for figures in refused for signal in sorted({figure.signal for figure in figures}))
    counts = ", ".join(f"{signal} {count}" for signal, count in signals.most_common()) or "none"
    yield share("false alarms", "honest models", [float(bool(figures)) for figures in refused])._replace(note=counts)
    for what in ("fresh", "trained", "pruned", "quantised"):
        chosen = [
            bool(figures) for honest, figures in zip(models, refused, strict=True) if honest.group.startswith(what)
        ]
        yield share("false alarms", what, chosen)
    for group in dict.fromkeys(honest.group for honest in models if honest.group.startswith(("pruned", "quantised"))):
        of_group = [(honest, figures) for honest, figures in zip(models, refused, strict=True) if honest.group == group]
        mean = sum(accuracy(honest) for honest, _ in of_group) / len(of_group)
        note = f"mean accuracy {mean:.0%}"
        yield share("false alarms", group, [float(bool(figures)) for _, figures in of_group])._replace(note=note)


def _server_rows(server: Server, full: bool) -> Iterator[Row]:
    refused: list[bool] = []
    flags: list[bool] = []
    signals: Counter[str] = Counter()
    for trial in range(_LONG_TRIALS if full else _TRIALS):
        sent = server.send(torch.Generator().manual_seed(trial))
        batch = batch_of(sent.data, 1000 + trial, _BATCH)
        beyond = _beyond(sent.model, batch, trial)
        refused.append(bool(beyond))
        signals.update(sorted({figure.signal for figure in beyond}))
        flags += recovered_flags(sent, batch)
    name = _name(server)
    counts = "; ".join(f"{signal} {count}" for signal, count in signals.most_common(4)) or "no signal"
    yield share("refused", name, refused)._replace(note=counts)
    yield share("recoverable without the check", name, flags)


def _beyond(model: nn.Module, batch: Batch, seed: int) -> list[BoundedFigure]:
    local = LocalStep(model, dict(model.named_parameters()), batch, float(len(batch)))
    here = HookContext(1, 0, 0, torch.Generator().manual_seed(seed), local=local)
    return [finding for finding in _CHECK.findings(model.state_dict(), here) if finding.is_beyond]


def honest_models() -> Iterator[Honest]:
    """Yield 80 fresh, 24 trained, 48 pruned and 48 quantised models."""
    yield from _fresh()
    for kind in _STAGES:
        for seed in _SEEDS:
            stages = [*_train_models(kind, seed)]
            yield from stages
            last = stages[-1]
            yield from (_change_weights(last, "pruned", share, _prune_weight) for share in _SHARES)
            yield from (_change_weights(last, "quantised", bits, _quantise_weight) for bits in _BITS)


def _fresh() -> Iterator[Honest]:
    for kind in _MODELS:
        for name, initialise in _INITIALISATIONS.items():
            for seed in _SEEDS:
                made = _make_model(kind, seed)
                with seeding.isolate_randomness(seed):
                    for weight in made.model.parameters():
                        if initialise is not None and weight.dim() > 1:
                            initialise(weight)
                yield made._replace(group=f"fresh, {name}")


def _make_model(kind: str, seed: int) -> Honest:
    settings, data = _MODELS[kind]
    dataset = load_dataset(data)
    with seeding.isolate_randomness(seed):
        return Honest("fresh", dataset, Choice.model_validate(settings).make("model", dataset.spec).train())


def _train_models(kind: str, seed: int) -> Iterator[Honest]:
    """Yield a model after so many steps of Adam on digits."""
    made = _make_model(kind, seed)
    generator, train = torch.Generator().manual_seed(seed), made.data.train
    descent = torch.optim.Adam(made.model.parameters(), lr=_RATE)
    with seeding.isolate_randomness(seed):
        for before, after in pairwise((0, *_STAGES[kind])):
            for _ in range(after - before):
                batch = train.select(torch.randint(len(train.inputs), (_TRAINING_BATCH,), generator=generator))
                descent.zero_grad()
                cross_entropy(made.model(batch.inputs), batch.labels).backward()
                descent.step()
            yield made._replace(group=f"trained, {after} steps", model=copy.deepcopy(made.model))


def _change_weights(honest: Honest, what: str, strength: float, change: Callable[[Tensor, float], Tensor]) -> Honest:
    model = copy.deepcopy(honest.model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(change(weight, strength))
    return honest._replace(group=f"{what}, {strength:g}", model=model)


def _prune_weight(weight: Tensor, share: float) -> Tensor:
    """Return the weight without this share of its entries, the smallest."""
    return torch.where(weight.abs() > weight.abs().flatten().quantile(share), weight, 0.0)


def _quantise_weight(weight: Tensor, bits: float) -> Tensor:
    """Return the weight rounded to symmetric levels of so many bits."""
    step = weight.abs().max().clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


def accuracy(honest: Honest) -> float:
    """Return the share of the test set that a model classifies rightly."""
    model, test = copy.deepcopy(honest.model).eval(), honest.data.test
    with torch.no_grad():
        return float((model(test.inputs).argmax(1) == test.labels).double().mean())


def batch_of(data: Dataset, seed: int, examples: int) -> Batch:
    """Return some training examples, drawn at random."""
    chosen = torch.randint(len(data.train.inputs), (examples,), generator=torch.Generator().manual_seed(seed))
    return data.train.select(chosen)


def _send_honest(kind: str, layer: str, generator: torch.Generator) -> Sent:
    made = _make_model(kind, int(torch.randint(1 << 30, (), generator=generator)))
    return Sent(made.model, made.data, layer)


def _send_crafted(kind: str, layer: str, nested: bool, name: str, generator: torch.Generator, **settings: Any) -> Sent:
    sent = _send_honest(kind, layer, generator)
    attack = make_attack(name, **settings)
    crafted = attack.craft(sent.model, sent.data.spec, sent.data.test.inputs, generator).train()
    rows = len(crafted.get_parameter(f"{layer}.weight"))
    return sent._replace(model=crafted, order=torch.arange(rows if nested else 0))


def _shuffle_imprint(generator: torch.Generator) -> Sent:
    """Scale and permute the rows of a nested imprint: every unit fires as before."""
    sent = _send_crafted("lenet", "0.1", True, "robbing-the-fed", generator)
    measure, spread = (cast("nn.Linear", sent.model.get_submodule(f"0.{place}")) for place in (1, 3))
    order = torch.randperm(_BINS, generator=generator)
    scales = torch.rand(_BINS, generator=generator) + 0.5
    with torch.no_grad():
        measure.weight.copy_((measure.weight * scales[:, None])[order])
        measure.bias.copy_((measure.bias * scales)[order])
        spread.weight.copy_((spread.weight / scales)[:, order])
    return sent._replace(order=order.argsort(), scales=scales[order])


def _slabs(noise: float, share: float, units: int, generator: torch.Generator) -> Sent:
    """Send units that are active in slabs that hold this share of examples, each in its own direction.

    Args:
        noise: of a direction relative to the one that all share; infinite: they share none.
        share: of the examples in a slab.
        units: number of slabs.
        generator: source of all draws.
    """
    sent = _send_honest("lenet", "0.1", generator)
    public, spec = sent.data.test.inputs.flatten(1).double(), sent.data.spec
    entries = math.prod(spec.shape)
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
    block = nn.Sequential(nn.Flatten(), measure, nn.Hardtanh(0.0, 1.0), spread, nn.Unflatten(1, spec.shape))
    return sent._replace(model=nn.Sequential(block, sent.model))


def _bounds(values: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the ends of each unit's slab: at a random quantile, of eight the one nearest to 0, for small biases."""
    starts = torch.rand(8, values.shape[1], generator=generator, dtype=torch.float64) * (1 - share)
    ordered = values.sort(0).values
    last = len(values) - 1
    lows = ordered.gather(0, (starts * last).long())
    nearest = lows.abs().argmin(0, keepdim=True)
    highs = ordered.gather(0, ((starts + share) * last).long().clamp_max(last))
    return lows.gather(0, nearest)[0], highs.gather(0, nearest)[0] + 1e-9


def _quantile_biases(share: float, rows: float, generator: torch.Generator) -> Sent:
    """Leave weights as initialised, and let this share of the units fire for this share of the examples."""
    sent = _send_honest("mlp", "1", generator)
    layer = cast("nn.Linear", sent.model.get_submodule("1"))
    with torch.no_grad():
        values = sent.data.test.inputs.flatten(1) @ layer.weight.T
        count = int(rows * len(layer.bias))
        layer.bias[:count] = -values[:, :count].quantile(1 - share, dim=0)
    return sent


def _loose_traps(generator: torch.Generator) -> Sent:
    """Draw trap weights whose signs are independent: as many are negative as chance says."""
    sent = _send_honest("mlp", "1", generator)
    layer, spec = cast("nn.Linear", sent.model.get_submodule("1")), sent.data.spec
    with torch.no_grad():
        rows = 0.5 * torch.randn(layer.weight.shape, generator=generator)
        rows = torch.where(rows > 0, 0.8 * rows, rows)
        layer.weight.copy_(rows * spec.std[0])
        layer.bias.copy_(rows.sum(1) * spec.mean[0])
    return sent


def servers() -> list[Server]:
    """Return honest servers as controls, the attacks as they are, and servers that know the check."""
    of_lenet, of_mlp = partial(_send_crafted, "lenet"), partial(_send_crafted, "mlp")
    sparse = partial(of_lenet, "0.1", False, "robbing-the-fed", variant="sparse")
    return [
        Server("honest, MLP", False, partial(_send_honest, "mlp", "1")),
        Server("robbing-the-fed, dense", False, partial(of_lenet, "0.1", True, "robbing-the-fed")),
        Server("robbing-the-fed, sparse", False, sparse),
        Server("certified-bins", False, partial(of_lenet, "0.measure", False, "certified-bins", bins=_BINS // 2)),
        Server("trap-weights", False, partial(of_mlp, "1", False, "trap-weights")),
        Server("robbing-the-fed, rows scaled and permuted", True, _shuffle_imprint),
        *(
            Server(
                f"slabs, {_BINS} of share 1/{_BINS}, row noise {noise:g}",
                True,
                partial(_slabs, noise, 1 / _BINS, _BINS),
            )
            for noise in (0.1, 0.3, 1.0, 3.0)
        ),
        Server("slabs, 16 of share 1/16, row noise 0", True, partial(_slabs, 0.0, 1 / 16, 16)),
        *(
            Server(
                f"slabs, {_BINS} of share 1/{part}, no common direction",
                True,
                partial(_slabs, math.inf, 1 / part, _BINS),
            )
            for part in (512, 64, 16)
        ),
        Server("trap-weights, signs by chance, positive 0.8", True, _loose_traps),
        Server("quantile biases, share 1/16, all rows", True, partial(_quantile_biases, 1 / 16, 1.0)),
        Server("quantile biases, share 1/16, 45 % of rows", True, partial(_quantile_biases, 1 / 16, 0.45)),
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
