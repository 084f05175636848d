"""What the ideal attacker reaches under each defense of a scenario, beside no attack at all.

    python -m benchmarks.ideal_attacker [scenarios/30_defenses_informed.toml] [--victims 2] [--only TEXT]

Prints a row for each arm: median PSNR of the ceiling, how many images the ideal attacker would recover by the
scenario's rule, the rank of the update's derivative, and the effective number of known entries. About five minutes on
one core.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from fedsim.core.types import WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.evidence import reach  # noqa: E402
from fedsim.metrics.success import Rule  # noqa: E402
from fedsim.record import Ceiling  # noqa: E402
from fedsim.scenario import Scenario, load  # noqa: E402
from fedsim.scenario import world as worlds  # noqa: E402
from fedsim.scenario.reading import arms  # noqa: E402
from fedsim.threat.ceiling import ceiling_of  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

_SCENARIO = Path("scenarios/30_defenses_informed.toml")


def ceilings(scenario: Scenario, victims: int) -> Iterator[Ceiling]:
    """Yield the ceilings of the first clients' first updates."""
    world = worlds.build(scenario)
    for client in range(victims):
        update, truth = local_training(world, world.models.first_weights, 1, client)
        if len(truth.private[0]):
            yield ceiling_of(Victim(world, WireEntry(1, client, world.models.first_weights, update), truth)).ceiling


def row(name: str, scenario: Scenario, victims: int) -> str:
    """Return a row of the table."""
    of_updates = list(ceilings(scenario, victims))
    rule = Rule.of(scenario.scoring.metric, scenario.scoring.threshold)
    reached = reach(of_updates, rule)
    if reached is None or reached.psnr is None:
        return f"| {name} | {reached.in_words if reached else 'no update'} | | |"
    exact = [ceiling for ceiling in of_updates if ceiling.known is not None and ceiling.rank is not None]
    ranks = ", ".join(sorted({f"{ceiling.rank} of {ceiling.inputs}" for ceiling in exact}))
    known = sum(ceiling.known or 0.0 for ceiling in exact) / len(exact)
    return f"| {name} | {reached.in_words} | {ranks} | {known:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="?", type=Path, default=_SCENARIO)
    parser.add_argument("--victims", type=int, default=2)
    parser.add_argument("--only", default="", help="arms whose name contains this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| arm | ideal attacker: median ceiling, recovered | rank | known entries |\n|---|---|---|---|")
    for values, scenario in arms(load(given.scenario)):
        name = ", ".join(map(str, values.values())) or "all"
        if given.only in name:
            print(row(name, scenario, given.victims), flush=True)


if __name__ == "__main__":
    main()
