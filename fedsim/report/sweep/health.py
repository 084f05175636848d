"""Did the attacks work at all? It tells "the attack failed" from "the attack gave up"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedsim.core.errors import FedsimError
from fedsim.document import TableCell
from fedsim.record.store import read_record
from fedsim.report import figures
from fedsim.report.drawing import Picture
from fedsim.report.sweep.gathered import Sweep
from fedsim.report.sweep.points import Point, risk
from fedsim.report.tables.figures import NOTHING, estimate


class Health(NamedTuple):
    """One attack over all settings, and on the undefended controls alone."""

    attack: str
    control: TableCell
    succeeded: bool
    victims: int
    gave_up: int
    converged: str
    falling: str
    reasons: str


def health(sweep: Sweep) -> list[Health]:
    """Return how the searches of every attack ended."""
    labels = dict.fromkeys(label for setting in sweep.settings for label in setting.labels)
    return [_health(sweep, label) for label in labels]


def histories(sweep: Sweep, points: Sequence[Point]) -> list[Picture]:
    """Return the objective over iterations of every search on the first control, of one seed."""
    control = next((point for point in points if point.setting.is_undefended and point.strongest), None)
    if control is None:
        return []
    cell = control.setting.cells[0]
    try:
        record = read_record(sweep.run_path(cell.digest))
    except FedsimError:
        return []
    only = record.arms[cell.arm].model_copy(update={"name": f"{control.name}, seed {cell.seed}"})
    return figures.attack_curves(record.model_copy(update={"arms": (only,)}))


def _health(sweep: Sweep, label: str) -> Health:
    tried = [own for setting in sweep.settings for own in setting.attempt(label)]
    controls = [risk(setting, label, sweep.judge) for setting in sweep.settings if setting.is_undefended]
    best = max((own.rate for own in controls if own), key=lambda rate: rate.value, default=None)
    searched = sum(own.searches.searched for own in tried)
    ended = sum(own.searches.victims - own.searches.gave_up for own in tried)
    reasons = dict.fromkeys(reason for own in tried for reason in own.reasons)
    return Health(
        attack=label,
        control=estimate(best, 100, 0, "%") if best else TableCell("failed" if controls else NOTHING),
        succeeded=best is not None and best.value > 0,
        victims=sum(own.searches.victims for own in tried),
        gave_up=sum(own.searches.gave_up for own in tried),
        converged=_share(sum(own.searches.converged for own in tried), searched),
        falling=_share(sum(own.searches.falling for own in tried), ended),
        reasons="; ".join(list(reasons)[:3]),
    )


def _share(count: int, of: int) -> str:
    return f"{count} of {of}" if of else NOTHING
