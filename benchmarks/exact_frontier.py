"""Exact attacks beyond dense first layers: a LeNet's images by second-order steps, a transformer's batches by zeros.

Labels are inferred, masks unknown; seconds are those of one core. Without ``--full``: few victims a setting (about
half an hour). With it: 10 victims a setting (hours), a control of normalised networks, the table of networks by
batch, dropout and training, and the largest batch of a transformer that is exact by rate, width and patch.

An attack is stopped at its first step after so many processor seconds, in the table after a sixth of them; its update
counts as not exact and is undecided.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks._budget import EXACT, Outcome, attack_within
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._frontier_cases import CASES, Case
from benchmarks._frontier_control import control_cells
from benchmarks._frontier_gap import gap_cells
from benchmarks._frontier_table import table_cells
from benchmarks._patch_rows import patch_cells
from benchmarks._rows import Row, measured, share
from benchmarks._victims import victims_of
from fedsim.core import registry
from fedsim.core.errors import NotApplicable

_ALL = 10


@experiment("exact-frontier", minutes=40, page="attacks/exact-frontier", seconds=300)
def exact_frontier(budget: Budget) -> Cells:
    """Return the cells of the short or the long version."""
    seconds = budget.seconds or 0.0
    cells = {case.setting: partial(_rows, case, _ALL if budget.full else case.few, seconds) for case in CASES}
    tables = {**control_cells(), **table_cells(seconds / 6)} if budget.full else {}
    return {**cells, **gap_cells(), **tables, **patch_cells(budget.full, seconds)}


def _rows(case: Case, victims: int, budget: float) -> Iterator[Row]:
    try:
        outcomes = list(_attack(case, victims, budget))
    except NotApplicable as reason:
        yield Row("refused", case.setting, 1.0, "share", n=victims, note=str(reason))
        return
    yield share(EXACT, case.setting, [float(outcome.is_exact) for outcome in outcomes], case.share)
    yield share(f"stopped after {budget:g} s", case.setting, [float(one.is_stopped) for one in outcomes])
    called = [float(one.guess.is_exact) for one in outcomes]
    yield share("called exact", case.setting, called)
    yield measured("worst PSNR of an update", case.setting, [outcome.worst for outcome in outcomes], "dB", "")
    steps = [float(one.guess.iterations) for one in outcomes]
    yield measured("steps", case.setting, steps, "steps", "")
    yield measured(
        "processor seconds an update", case.setting, [outcome.seconds for outcome in outcomes], "s", case.seconds
    )


def _attack(case: Case, victims: int, budget: float) -> Iterator[Outcome]:
    method = registry.get("attack", case.attack)
    attack = method.make(method.config.model_validate(dict(case.settings)))
    for number, victim in enumerate(victims_of(case.data, case.model, victims, batch_size=case.batch_size)):
        yield attack_within(budget, attack, victim, number)
