"""Exact attacks beyond dense first layers: images of chains of convolutions and residual networks, by equations.

Labels are inferred, masks unknown; seconds are those of one core. An attack is stopped at its first step after so many
processor seconds; its update counts as not exact and is undecided, where the ideal attacker would recover it. With
``--full``: 10 updates a row instead of 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks._budget import EXACT, attack_each
from benchmarks._ceiling import ceiling_row
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._frontier_cases import CASES, Case
from benchmarks._rows import Row, median_row, share
from benchmarks._victims import make_attack, observed_victims, seen_of

_ALL, _FEW = 10, 5


@experiment("exact-frontier", minutes=10, page="attacks/exact-frontier", seconds=50)
def exact_frontier(budget: Budget) -> Cells:
    """Return a cell for each row."""
    victims, seconds = _ALL if budget.full else _FEW, budget.seconds or 0.0
    return {case.setting: partial(_rows, case, victims, seconds) for case in CASES}


def _rows(case: Case, victims: int, budget: float) -> Iterator[Row]:
    observed = list(
        observed_victims(case.data, case.model, victims, batch_size=case.batch_size, trained=case.training_steps)
    )
    attack = make_attack(case.attack, **case.settings)
    outcomes = attack_each(attack, map(seen_of, observed), case.longer * budget)
    exact = [float(outcome.is_exact) for outcome in outcomes]
    note = "" if all(exact) else _ideal_attacker_note(ceiling_row(observed[exact.index(0.0)], case.setting))
    yield share(EXACT, case.setting, exact, case.share, note=note)
    yield share("called exact", case.setting, [float(outcome.guess.is_exact) for outcome in outcomes])
    yield share("out of time", case.setting, [float(outcome.is_stopped) for outcome in outcomes])
    yield median_row("worst PSNR of an update", case.setting, [outcome.worst for outcome in outcomes], "dB")
    yield median_row("processor seconds an update", case.setting, [outcome.seconds for outcome in outcomes], "s")


def _ideal_attacker_note(row: Row) -> str:
    """Return what it would recover of the first update that did not come back."""
    return f"ideal attacker: {f'{row.value:.0%} of the images, ' if row.n else ''}{row.note}"
