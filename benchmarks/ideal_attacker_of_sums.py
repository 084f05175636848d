"""What the ideal attacker reaches where clients train for several local steps, and where a server sees only their sum.

    python -m benchmarks.ideal_attacker_of_sums [--noise 0.1]

Prints a row for each number of steps and of clients, on digits with an MLP: median PSNR of the ceiling over three
seeds, that of a server that knows the examples of all other clients, and rank and number of the unknown entries. The
noise is that of one client on what it sends, relative to its root mean square. About a minute on one core.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from fedsim.core.types import WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.record import Ceiling  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario import world as worlds  # noqa: E402
from fedsim.threat.ceiling import ceiling_of  # noqa: E402
from fedsim.threat.replay import replay  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

STEPS, CLIENTS, SEEDS = (1, 2, 4, 8), (1, 2, 4, 8), (0, 1, 2)


def ceiling(seed: int, *, steps: int = 1, clients: int = 1, noise: float = 0.0, is_secure: bool = False) -> Ceiling:
    """Return the ceiling of one round: each client takes so many steps of one image each."""
    tables: dict[str, Any] = {
        "title": "ceilings",
        "seed": seed,
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.0, "bias": True},
        "federation": {"clients": max(2, clients), "algorithm": "fedavg", "local_steps": steps, "batch_size": 1},
        "threat": {"sees": "sum" if clients > 1 else "single-update"},
    }
    if noise:
        defense = {"name": "gradient-noise", "scale": noise, "relative": True, "applies": "per_update"}
        tables["defenses"] = [defense]
    if is_secure:
        tables["secure_aggregation"] = {"mode": "ideal"}
    world = worlds.build(parse(tables, "ceilings"))
    received = world.models.first_weights
    update, truth = local_training(world, received, 1, 0)
    entry = WireEntry(1, 0, received, update, tuple(range(clients)) if clients > 1 else ())
    return ceiling_of(Victim(world, entry, replay(world, entry).truth if clients > 1 else truth)).ceiling


def row(words: str, ceilings: list[Ceiling]) -> str:
    """Return a row of the table."""
    figures = [_median([each.psnr for each in ceilings]), _median([each.others_known for each in ceilings])]
    ranks = ", ".join(sorted({f"{each.rank} of {each.inputs}" for each in ceilings}))
    return f"| {words} | {' | '.join(figures)} | {ranks} |"


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.1f} dB" if known else ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=float, default=0.1)
    noise = parser.parse_args().noise
    torch.set_num_threads(1)
    print("| update | ceiling | others known | rank |\n|---|---|---|---|")
    for level, words in ((0.0, "rounding"), (noise, f"noise {noise:g}")):
        for steps in STEPS:
            of_seeds = [ceiling(seed, steps=steps, noise=level) for seed in SEEDS]
            print(row(f"{steps} local steps, {words}", of_seeds), flush=True)
        for clients in CLIENTS[1:]:
            of_seeds = [ceiling(seed, clients=clients, noise=level) for seed in SEEDS]
            print(row(f"sum of {clients} clients, {words}", of_seeds), flush=True)
    of_seeds = [ceiling(seed, clients=4, is_secure=True) for seed in SEEDS]
    print(row("sum of 4 clients behind secure aggregation", of_seeds), flush=True)


if __name__ == "__main__":
    main()
