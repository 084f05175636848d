"""A sweep as a table: one row for every attacked example of every finished run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import FedsimError
from fedsim.record import ArmRecord, AttackRecord, ItemScore, RunRecord, VictimRecord
from fedsim.store import read_record
from fedsim.sweep.folder import PLAN, PlannedRun, SweepFolder

COLUMNS: dict[str, str] = {
    "run": "hash of the resolved scenario",
    "setting": "what the sweep set, for people",
    "seed": "seed of the run",
    "arm": "arm within the run",
    "test_accuracy": "of the last evaluated round, in [0, 1]",
    "attack": "label of the attack",
    "knows": "what it was granted, space-separated",
    "round": "attacked round",
    "client": "attacked client, or the first of a sum",
    "image": "index of the example within the victim's batches",
    "label": "its label",
    "guessed_label": "the attack's",
    "mse": "pixel units of [0, 1]",
    "psnr_db": "dB",
    "ssim": "structural similarity",
    "objective": "the attack's own, at its guess",
    "iterations": "of the attack, over all restarts",
    "failure": "why the attack gave no guess; empty otherwise",
}
"""Name and meaning of every column, in order. The values of the sweep follow, a column each."""


def load(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a sweep, or of a single run, in the order of the plan.

    Runs that are not finished, or whose record cannot be read, are left out; `problems` names them.

    Args:
        path: folder of a sweep or of a run.

    Raises:
        FedsimError: it is neither.
    """
    return rows_of(read(path))


def problems(path: Path) -> list[tuple[PlannedRun, str]]:
    """Return every run of a sweep that has no usable record, with the reason."""
    return problems_of(read(path))


Found = Sequence[tuple[PlannedRun, RunRecord | str]]


def read(path: Path) -> Found:
    """Return every run of a sweep, or a single one, with its record, or with the reason why there is none.

    Raises:
        FedsimError: the folder holds neither a sweep nor a run.
    """
    return list(each(path))


def each(path: Path) -> Iterator[tuple[PlannedRun, RunRecord | str]]:
    """Yield what `read` returns, one record in memory at a time."""
    if not (path / PLAN).exists():
        record = read_record(path)
        yield PlannedRun(digest=record.scenario_hash, name="", values={}), record
        return
    folder = SweepFolder(path)
    for planned in folder.plan().runs:
        yield planned, _record(folder, planned.digest)


def rows_of(found: Found) -> list[dict[str, Any]]:
    """Return the rows of all records."""
    return [row for planned, record in found if not isinstance(record, str) for row in _rows(planned, record)]


def problems_of(found: Found) -> list[tuple[PlannedRun, str]]:
    """Return the runs without a record, with the reason."""
    return [(planned, reason) for planned, reason in found if isinstance(reason, str)]


def _record(folder: SweepFolder, digest: str) -> RunRecord | str:
    if folder.is_finished(digest):
        try:
            return read_record(folder.run_path(digest))
        except FedsimError as error:
            return str(error)
    failure = folder.failure(digest)
    return folder.misfit(digest) or (failure.why if failure else "not finished yet")


def _rows(planned: PlannedRun, record: RunRecord) -> Iterator[dict[str, Any]]:
    for arm in record.arms:
        for attack in arm.attacks:
            for victim in attack.victims:
                for item in victim.scores or (None,):
                    yield {**_row(planned, record, arm, attack, victim, item), **planned.values}


def _row(
    planned: PlannedRun,
    record: RunRecord,
    arm: ArmRecord,
    attack: AttackRecord,
    victim: VictimRecord,
    item: ItemScore | None,
) -> dict[str, Any]:
    accuracies = [own.test_accuracy for own in arm.rounds if own.test_accuracy is not None]
    values = (
        planned.digest,
        planned.name,
        record.scenario.get("seed"),
        arm.name,
        accuracies[-1] if accuracies else None,
        attack.label,
        " ".join(attack.knows),
        victim.round,
        victim.client,
        item.index if item else None,
        item.label if item else None,
        item.guessed_label if item else None,
        item.mse if item else None,
        item.psnr if item else None,
        item.ssim if item else None,
        victim.objective,
        victim.iterations,
        victim.failure or "",
    )
    return dict(zip(COLUMNS, values, strict=True))
