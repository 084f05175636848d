"""What the ideal attacker reaches where clients train for several local steps, and where a server sees only their sum.

Digits and an MLP: median PSNR of the ceiling over three seeds, that of a server that knows the examples of all other
clients, and rank and number of the unknown entries. The noise is that of one client on what it sends, relative to its
root mean square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row
from benchmarks._victims import send_update, world_of
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.record import Ceiling
from fedsim.threat.replay import replay

STEPS, CLIENTS, SEEDS = (1, 2, 4, 8), (1, 2, 4, 8), (0, 1, 2)
NOISE = 0.1


def ceiling(seed: int, *, steps: int = 1, clients: int = 1, noise: float = 0.0, is_secure: bool = False) -> Ceiling:
    """Return the ceiling of one round: each client takes so many steps of one image each."""
    tables: dict[str, Any] = {
        "seed": seed,
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.0, "bias": True},
        "federation": {"clients": max(2, clients), "algorithm": "fedavg", "local_steps": steps, "batch_size": 1},
        "threat": {"view": "sum" if clients > 1 else "single-update"},
    }
    if noise:
        tables["defenses"] = [{"name": "gradient-noise", "scale": noise, "relative": True, "applies": "per_update"}]
    if is_secure:
        tables["secure_aggregation"] = {"mode": "ideal"}
    victim = send_update(world_of(tables))
    if clients > 1:
        entry = replace(victim.entry, clients=tuple(range(clients)))
        victim = replace(victim, entry=entry, truth=replay(victim.world, entry).truth)
    return ceiling_of(victim).ceiling


@experiment("ideal-attacker-of-sums", minutes=1, page="ideal-attacker")
def ideal_attacker_of_sums(_budget: Budget) -> Cells:
    """Return a cell for each number of steps and of clients, with rounding alone and with noise."""
    cells: dict[str, dict[str, Any]] = {}
    for level, words in ((0.0, "rounding"), (NOISE, f"noise {NOISE:g}")):
        cells |= {f"{steps} local steps, {words}": {"steps": steps, "noise": level} for steps in STEPS}
        cells |= {f"sum of {n} clients, {words}": {"clients": n, "noise": level} for n in CLIENTS[1:]}
    cells["sum of 4 clients behind secure aggregation"] = {"clients": 4, "is_secure": True}
    return {words: partial(_seed_rows, words, settings) for words, settings in cells.items()}


def _seed_rows(words: str, settings: Mapping[str, Any]) -> Iterator[Row]:
    yield from rows(words, [ceiling(seed, **settings) for seed in SEEDS])


def rows(words: str, ceilings: Sequence[Ceiling]) -> Iterator[Row]:
    """Yield the median ceilings of a server that knows nobody's examples and of one that knows all others'."""
    ranks = ", ".join(sorted({f"rank {each.rank} of {each.inputs}" for each in ceilings}))
    figures = {
        "ceiling": [each.psnr for each in ceilings],
        "others known": [each.psnr_other_clients_known for each in ceilings],
    }
    for name, values in figures.items():
        if known := [value for value in values if value is not None]:
            yield median_row(name, words, known, "dB")._replace(note=ranks)
