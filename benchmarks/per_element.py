"""What does a sum give away at elements that one client alone changed, and what is left where several must contribute?

Control: the plain secure sum (1 contributor). Opponent: a server with one colluding client less than an element needs;
they send a known number everywhere, and the server takes it off again. Then: what does the protocol cost beside masks
that tell the whole sum?
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row
from benchmarks._secure_round import SecureRound
from benchmarks._victims import make_attack, send_update, world_of
from fedsim.core import seeding
from fedsim.core.types import Update, WireEntry
from fedsim.federation.secure_client import mean_of, secure_settings, summand
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.per_element import tell, with_contributions
from fedsim.privacy.secure_aggregation.ring import modular_sum
from fedsim.processes.methods import InProcessRunner, search
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.replay import replay
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim

_KNOWN = 0.5  # what a colluding client sends everywhere
_TEXT: dict[str, Any] = {
    "data": {"name": "lee-news", "length": 16},
    "model": {"name": "tiny-llama", "width": 32, "hidden": 64, "dropout": 0.0},
}


@dataclass(frozen=True)
class Seen:
    """What a server makes of a round: the mean update of the honest clients, where it is told, and the true one."""

    mean: Tensor
    honest: Tensor


def federation_of(least: int, tables: dict[str, Any], seed: int, clients: int) -> World:
    """Return a federation behind secure aggregation that asks for so many contributors to an element."""
    raw = {
        "seed": seed,
        "federation": {"algorithm": "fedsgd", "clients": clients, "batch_size": 2},
        "aggregation": {"name": "mean", "weighted": False},
        "secure_aggregation": {"least_contributors": least},
        **tables,
    }
    raw["threat"] = {**raw.get("threat", {}), "view": "sum"}
    return world_of(raw)


def see(world: World, colluders: int) -> Seen:
    """Run a round of all clients, beside colluding ones, and return what the server makes of its sum."""
    settings, layout = secure_settings(world), world.models.layout
    clients = range(world.scenario.federation.clients)
    updates = (send_update(world, client).entry.update for client in clients)
    vectors = [layout.flat(update.tensors, update.buffers) for update in updates]
    known = [torch.full_like(vectors[0], _KNOWN)] * colluders
    uploads = [summand(world, vector, 1, 0.0, 1, client) for client, vector in enumerate([*vectors, *known])]
    total = modular_sum([upload for upload in uploads if upload is not None], settings.modulus_bits)
    disclosed = tell(total, settings.least_contributors, settings.modulus_bits)
    mean, weight, _ = mean_of(world, disclosed)
    revealed = torch.ones_like(mean, dtype=torch.bool) if disclosed.disclosed_mask is None else disclosed.disclosed_mask
    honest = (mean * weight - _KNOWN * colluders) / len(vectors) * revealed
    return Seen(honest, torch.stack(vectors).double().mean(0))


def images_read(variant: str, least: int, colluders: int, seed: int, clients: int = 8) -> list[float]:
    """Return for each image of a round whether a malicious server reads it exactly off the sum: 1 or 0."""
    attack = {"name": "robbing-the-fed", "bins": 64, "variant": variant}
    model = {"name": "mlp", "width": 32, "depth": 1, "dropout": 0.0}
    tables = {"data": {"name": "digits"}, "model": model, "threat": {"server": "malicious"}, "attacks": [attack]}
    world = federation_of(least, tables, seed, clients)
    seen, received = see(world, colluders), world.models.first_weights
    tensors, buffers = world.models.layout.unflatten(seen.mean)
    entry = WireEntry(1, 0, received, Update("gradient", tensors, buffers, 0, 0.0), tuple(range(clients)))
    victim = Victim(world, entry, replay(world, entry).truth)
    observation = observe(victim, world.scenario.threat.knows)
    guesses = search(InProcessRunner(make_attack(**attack)), [observation], [seeding.generator(seed, "attack")])
    if isinstance(guesses, str):
        return [0.0] * len(victim.examples)
    record, _ = score(victim, guesses[0])
    exact = [item.values.get("exact_pixels", 0.0) for item in record.scores]
    return [*exact, *[0.0] * (len(victim.examples) - len(exact))]


def tokens_read(least: int, colluders: int, seed: int, clients: int = 10) -> tuple[list[float], float]:
    """Return for each token that one client alone used whether its row is told, and the share of the mean that is told.

    The second figure is the squared norm of the told mean over that of the true one.
    """
    world = federation_of(least, _TEXT, seed, clients)
    seen, layout = see(world, colluders), world.models.layout
    name, rows = _embedding(world)
    is_disclosed = layout.unflatten(seen.mean)[0][name].abs() > _noise(world, colluders)
    used = [set(torch.cat([b.inputs.flatten() for b in world.data.batches(1, c)]).tolist()) for c in range(clients)]
    alone = [t for t in range(rows) if sum(t in tokens for tokens in used) == 1]
    kept = float(seen.mean.square().sum() / seen.honest.square().sum())
    return [float(is_disclosed[token].any()) for token in alone], kept


def _embedding(world: World) -> tuple[str, int]:
    vocabulary = world.data.dataset.spec.vocabulary
    for name, parameter in world.models.parameters.items():
        if "embed" in name and parameter.shape[0] == vocabulary:
            return name, parameter.shape[0]
    raise AssertionError("the model has no table of tokens")


def _noise(world: World, colluders: int) -> float:
    """Return what rounding to integers alone leaves of an element, at most."""
    return 1.01 * secure_settings(world).step * (1 + colluders / world.scenario.federation.clients)


def costs(least: int, clients: int, size: int, seeds: Sequence[int]) -> list[Row]:
    """Return what a masked round costs one client and the server, where all elements are told, which costs most.

    Seconds are those of this process, their mean over clients; a unit is a round.
    """
    config = SecureAggregation(mode="masked", least_contributors=least)
    rounds = [_round_of(config, clients, size, seed) for seed in seeds]
    setting = f"{clients} clients, {size} elements, " + (f"{least} contributors" if least > 1 else "plain masks")
    got, sent = rounds[0].bytes_of(0)
    figures: list[tuple[str, list[float], str]] = [
        ("a client gets", [got / 1e6], "MB"),
        ("a client sends", [sent / 1e6], "MB"),
        ("a client computes", [1e3 * timing.client_seconds / clients for timing in rounds], "ms"),
        ("the server computes", [1e3 * timing.server_seconds for timing in rounds], "ms"),
    ]
    return [mean_row(name, setting, values, unit) for name, values, unit in figures]


def _round_of(config: SecureAggregation, clients: int, size: int, seed: int) -> SecureRound:
    numbers = seeding.generator(seed, "costs")
    levels = torch.randint(config.levels, (clients, size + 2), generator=numbers)
    if config.least_contributors > 1:
        levels = torch.stack([with_contributions(level, torch.ones(size)) for level in levels])
    done = SecureRound(dict(enumerate(levels)), config, seed=seed)
    done.run()
    return done


@experiment("per-element", minutes=3, page="per-element-aggregation")
def per_element(budget: Budget) -> Cells:
    """Return a cell for each number of contributors, and one for the costs of each; the long version has more seeds."""
    seeds = range(5 if budget.full else 2)
    cases: Sequence[tuple[int, int]] = ((1, 0), (2, 0), (3, 0), (3, 2), (5, 0), (5, 4))
    sizes = list(itertools.product((10, 50), (10_000, 100_000))) if budget.full else [(10, 10_000)]
    return {
        **{_words(*case): partial(_revealed_rows, *case, seeds) for case in cases},
        **{
            f"costs of {least} contributors, {clients} clients, {size} elements": partial(
                costs, least, clients, size, seeds
            )
            for clients, size in sizes
            for least in (1, 3)
        },
    }


def _words(least: int, colluders: int) -> str:
    return f"{least} contributors" + (f", {colluders} colluding clients" if colluders else "")


def _revealed_rows(least: int, colluders: int, seeds: Sequence[int]) -> Iterator[Row]:
    setting = _words(least, colluders)
    of_seeds = [tokens_read(least, colluders, seed) for seed in seeds]
    flags = [value for flags_of_seed, _ in of_seeds for value in flags_of_seed]
    yield mean_row("tokens of one client whose row is told", setting, flags, "share")
    yield mean_row("share of the mean that is told", setting, [kept for _, kept in of_seeds], "share")
    for variant in ("sparse", "dense"):
        read = [value for seed in seeds for value in images_read(variant, least, colluders, seed)]
        yield mean_row(f"images read, {variant} imprint", setting, read, "share")
