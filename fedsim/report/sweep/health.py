"""Health of attacks: distinguishes an attack that failed from an attack that gave up."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.core.errors import FedsimError
from fedsim.record.store import read_record
from fedsim.report import figures
from fedsim.report.document import Picture, Table, TableRow, number
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.sweep.points import Point, risk
from fedsim.report.sweep.tables import estimate_cell
from fedsim.report.tables.figures import NOTHING


def health(sweep: SweepRecords) -> Table:
    """Return a table with the search outcomes of every attack over all settings, and its success on the controls."""
    labels = dict.fromkeys(label for setting in sweep.settings for label in setting.labels)
    numbers = ("success on the control", "victims", "gave up", "as low as the truth", "still falling")
    headings = ("attack", *map(number, numbers), "reasons")
    rows = [_row(sweep, label) for label in labels]
    return Table.of("Health of every attack", headings, rows, is_sortable=False, layout="words")


def histories(sweep: SweepRecords, points: Sequence[Point]) -> list[Picture]:
    """Return the objective curves of every search on the first control, for a single seed."""
    control = next((point for point in points if point.setting.is_undefended and point.strongest), None)
    if control is None:
        return []
    cell = control.setting.cells[0]
    try:
        record = read_record(sweep.run_path(cell.digest))
    except FedsimError:
        return []
    single = record.arms[cell.arm].model_copy(update={"name": f"{control.name}, seed {cell.seed}"})
    return figures.attack_curves(record.model_copy(update={"arms": (single,)}))


def _row(sweep: SweepRecords, label: str) -> TableRow:
    attempts = [tried for setting in sweep.settings for tried in setting.attempt(label)]
    controls = [risk(setting, label, sweep.judge) for setting in sweep.settings if setting.is_undefended]
    best = max((success.rate for success in controls if success), key=lambda rate: rate.value, default=None)
    searches = [tried.searches for tried in attempts]
    gave_up, victims = sum(search.gave_up for search in searches), sum(search.victims for search in searches)
    reasons = dict.fromkeys(reason for tried in attempts for reason in tried.reasons)
    return TableRow.of(
        label,
        estimate_cell(best, 100, 0, "%") if best or not controls else "failed",
        f"{victims}",
        f"{gave_up}",
        _share(
            sum(search.converged_victims for search in searches), sum(search.searched_victims for search in searches)
        ),
        _share(sum(search.falling_victims for search in searches), victims - gave_up),
        "; ".join(list(reasons)[:3]),
    )


def _share(count: int, total: int) -> str:
    return f"{count} of {total}" if total else NOTHING
