"""A sweep as a table: one row for every attacked example of every finished run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError
from fedsim.experiment.sweep.folder import PLAN, PlannedRun, SweepFolder
from fedsim.record import ArmRecord, AttackRecord, ItemScore, RunRecord, SentenceScore, VictimRecord
from fedsim.record.store import read_record

COLUMNS: dict[str, str] = {
    "run": "hash of the resolved scenario",
    "setting": "what the sweep set, for people",
    "seed": "seed of the run",
    "arm": "arm within the run",
    "test_accuracy": "of the last evaluated round, in [0, 1]",
    "test_span_f1": "the same: micro F1 of whole spans, where labels are tags",
    "test_spearman": "the same: rank correlation of sentence pairs, in [-1, 1], where there are no labels",
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
    "exact": "of a sentence: whether every token is right and none is too many",
    "token_accuracy": "of a sentence: share of its tokens at the right place of the guess",
    "rouge_1": "of a sentence: F-measure of words",
    "rouge_2": "of a sentence: F-measure of pairs of words",
    "rouge_l": "of a sentence: F-measure of the longest common subsequence of words",
    "secret_read": "of a sentence with a planted secret: whether any guess of the update has it",
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
                for scores in _scores(victim):
                    yield {**_row(planned, record, arm, attack, victim, scores), **planned.values}


def _scores(victim: VictimRecord) -> list[dict[str, Any]]:
    """Return what is known of each attacked example, by column; one without anything where there is no guess."""
    if not victim.examples:
        return [{}]
    images = [_of_image(item) for item in victim.scores]
    return [*images, *(_of_sentence(own) for own in victim.sentences)]


def _of_image(item: ItemScore) -> dict[str, Any]:
    return {
        "image": item.index,
        "label": item.label,
        "guessed_label": item.guessed_label,
        "mse": item.mse,
        "psnr_db": item.psnr,
        "ssim": item.ssim,
    }


def _of_sentence(own: SentenceScore) -> dict[str, Any]:
    return {
        "image": own.index,
        "exact": own.exact,
        "token_accuracy": own.token_accuracy,
        "rouge_1": own.rouge_1,
        "rouge_2": own.rouge_2,
        "rouge_l": own.rouge_l,
        "secret_read": own.secret_is_read,
    }


def _row(
    planned: PlannedRun,
    record: RunRecord,
    arm: ArmRecord,
    attack: AttackRecord,
    victim: VictimRecord,
    scores: dict[str, Any],
) -> dict[str, Any]:
    evaluated = [own for own in arm.rounds if own.utilities]
    tested = evaluated[-1].model_dump() if evaluated else {}
    values = {
        "run": planned.digest,
        "setting": planned.name,
        "seed": record.scenario.get("seed"),
        "arm": arm.name,
        **{name: tested.get(name) for name in ("test_accuracy", "test_span_f1", "test_spearman")},
        "attack": attack.label,
        "knows": " ".join(attack.knows),
        "round": victim.round,
        "client": victim.client,
        **scores,
        "objective": victim.objective,
        "iterations": victim.iterations,
        "failure": victim.failure or "",
    }
    return {name: values.get(name) for name in COLUMNS}
