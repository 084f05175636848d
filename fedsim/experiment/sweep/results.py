"""A sweep as a table with a row for every attacked example of every finished run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.result_files import SWEEP
from fedsim.experiment.sweep.folder import PlannedRun, SweepFolder
from fedsim.record import ArmRecord, AttackFinding, ItemScore, RunRecord, VictimRecord
from fedsim.record.finding_rows import finding_rows
from fedsim.record.store import read_record

RecordedRuns = Sequence[tuple[PlannedRun, RunRecord | str]]

BEFORE_FINDINGS = {
    "run": "hash of the resolved scenario",
    "setting": "the sweep's settings, in readable form",
    "seed": "seed of the run",
}
_BEFORE_TESTS = {**BEFORE_FINDINGS, "arm": "arm within the run"}
_BEFORE_SCORES = {
    "attack": "label of the attack",
    "knows": "knowledge granted to the attack, space-separated",
    "round": "attacked round",
    "client": "attacked client, or the first of a sum",
    "image": "index of the example within the victim's batches",
    "label": "its label",
    "guessed_label": "the attack's",
}
_AFTER_SCORES = {
    "objective": "the attack's own, at its guess",
    "iterations": "of the attack, over all restarts",
    "failure": "why the attack gave no guess; empty otherwise",
}


def columns(recorded: RecordedRuns = ()) -> dict[str, str]:
    """Return name and meaning of every column, in order: the metrics are those installed or in a record.

    The sweep's values are further columns at the end, not contained here.
    """
    declared = {
        name: metric
        for _, record in recorded
        if not isinstance(record, str)
        for name, metric in record.metrics_by_name.items()
    }
    metrics = [metric for metric in {**registry.every_metric(), **declared}.values() if metric.tables == "all"]
    tested, scores = ({m.column_name: m.meaning for m in metrics if m.over == unit} for unit in ("round", "item"))
    return {**_BEFORE_TESTS, **tested, **_BEFORE_SCORES, **scores, **_AFTER_SCORES}


def __getattr__(name: str) -> Any:
    """Return `COLUMNS`, the columns of the installed metrics."""
    if name != "COLUMNS":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return columns()


def load(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a sweep or a run, in the order of the plan.

    Unfinished runs and runs with unreadable records are omitted; `problems` names them.

    Args:
        path: folder of a sweep or of a run.

    Raises:
        FedsimError: the folder contains neither a sweep nor a run.
    """
    return rows_of(read(path))


def problems(path: Path) -> list[tuple[PlannedRun, str]]:
    """Return every run of a sweep without a usable record, with the reason."""
    return problems_of(read(path))


def read(path: Path) -> RecordedRuns:
    """Return all runs of a sweep, or the single run, each with its record or the reason of its absence.

    Raises:
        FedsimError: the folder contains neither a sweep nor a run.
    """
    return list(iterate_records(path))


def iterate_records(path: Path) -> Iterator[tuple[PlannedRun, RunRecord | str]]:
    """Yield the items of `read`, with one record in memory at a time."""
    if not (path / SWEEP).exists():
        record = read_record(path)
        yield PlannedRun(digest=record.digest, name="", values={}), record
        return
    folder = SweepFolder(path)
    for planned in folder.plan().runs:
        yield planned, _record(folder, planned.digest)


def rows_of(recorded: RecordedRuns) -> list[dict[str, Any]]:
    """Return the rows of all records."""
    return [row for planned, record in recorded if not isinstance(record, str) for row in _rows(planned, record)]


def finding_rows_of(recorded: RecordedRuns) -> list[dict[str, Any]]:
    """Return a row for every metric value of every finding, with the run before it and the sweep's values behind it."""
    return [
        {"run": planned.digest, "setting": planned.name, "seed": record.plan.get("seed"), **row, **planned.values}
        for planned, record in recorded
        if not isinstance(record, str)
        for row in finding_rows(record)
    ]


def problems_of(recorded: RecordedRuns) -> list[tuple[PlannedRun, str]]:
    """Return the runs without a record, with the reason."""
    return [(planned, reason) for planned, reason in recorded if isinstance(reason, str)]


def _record(folder: SweepFolder, digest: str) -> RunRecord | str:
    if folder.is_finished(digest):
        try:
            return read_record(folder.run_path(digest))
        except FedsimError as error:
            return str(error)
    failure = folder.failure(digest)
    return folder.misfit(digest) or (failure.why if failure else "not finished yet")


def _rows(planned: PlannedRun, record: RunRecord) -> Iterator[dict[str, Any]]:
    names = columns([(planned, record)])
    for arm in record.arms:
        for attack in arm.attacks:
            for victim in attack.victims:
                for item in victim.scores or (None,):
                    row = _row(planned, record, arm, attack, victim, item)
                    yield {**{name: row.get(name) for name in names}, **planned.values}


def _row(
    planned: PlannedRun,
    record: RunRecord,
    arm: ArmRecord,
    attack: AttackFinding,
    victim: VictimRecord,
    item: ItemScore | None,
) -> dict[str, Any]:
    """Return the columns of an attacked example; for an update without a guess the example's columns are None."""
    declared = record.metrics_by_name
    evaluated = [entry.test_metrics for entry in arm.rounds if entry.utilities(declared)]
    measured = (*(evaluated[-1] if evaluated else {}).items(), *(item.values if item else {}).items())
    return {
        "run": planned.digest,
        "setting": planned.name,
        "seed": record.plan.get("seed"),
        "arm": arm.name,
        "attack": attack.label,
        "knows": " ".join(attack.knows),
        "round": victim.round,
        "client": victim.client,
        "image": item.index if item else None,
        "label": item.label if item else None,
        "guessed_label": item.guessed_label if item else None,
        **{declared[name].column_name: declared[name].plain(value) for name, value in measured},
        "objective": victim.objective,
        "iterations": victim.iterations,
        "failure": victim.failure or "",
    }
