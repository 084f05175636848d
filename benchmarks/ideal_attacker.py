"""What the ideal attacker reaches under each defense of a scenario, beside no attack at all.

Arms are those of scenario 30: median PSNR of the ceiling, how many images the ideal attacker would recover by the
scenario's rule, the rank of the update's derivative, and the effective number of known entries. Without ``--full`` one
update an arm, with it two.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row
from benchmarks._victims import send_update
from fedsim.judgement.evidence import reach
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.record import Ceiling
from fedsim.scenario import Scenario, load
from fedsim.scenario import world as worlds
from fedsim.scenario.reading import arms

_SCENARIO = Path(__file__).parent.parent / "scenarios" / "30_defenses_informed.toml"


def ceilings(scenario: Scenario, victims: int) -> Iterator[Ceiling]:
    """Yield the ceilings of the first clients' first updates."""
    world = worlds.build(scenario)
    for client in range(victims):
        victim = send_update(world, client)
        if len(victim.truth.original_batches[0]):
            yield ceiling_of(victim).ceiling


@experiment("ideal-attacker", minutes=5, page="defenses/README")
def ideal_attacker(budget: Budget) -> Cells:
    """Return a cell for each arm of the scenario."""
    named = ((", ".join(map(str, values.values())), scenario) for values, scenario in arms(load(_SCENARIO)))
    return {name: partial(rows, name, scenario, 2 if budget.full else 1) for name, scenario in named}


def rows(name: str, scenario: Scenario, victims: int) -> Iterator[Row]:
    """Yield the ceiling of an arm, what it recovers and what it knows; where it is not defined, a note says why."""
    of_updates = list(ceilings(scenario, victims))
    reached = reach(of_updates, scenario.scoring.rule)
    if reached is None or reached.psnr is None or reached.share is None:
        yield Row("ideal attacker", name, 0.0, "dB", n=0, note=reached.text if reached else "no update")
        return
    exact = [ceiling for ceiling in of_updates if ceiling.known_entries is not None and ceiling.rank is not None]
    ranks = ", ".join(sorted({f"rank {ceiling.rank} of {ceiling.inputs}" for ceiling in exact}))
    yield Row("ideal attacker", name, reached.psnr, "dB", n=len(of_updates), note=ranks)
    yield Row("images that it recovers", name, reached.share, "share", n=len(of_updates))
    yield mean_row("entries that it knows", name, [ceiling.known_entries or 0.0 for ceiling in exact], "")
