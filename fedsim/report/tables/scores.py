"""Rows of `scores.csv`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedsim.core import registry
from fedsim.core.metric import Metric
from fedsim.record import ArmRecord, AttackFinding, RunRecord, VictimRecord
from fedsim.report.verdict import RunJudge

_BEFORE = ("arm", "attack", "round", "client", "image", "label", "guessed_label")
_AFTER = ("success", "objective", "objective_at_truth", "iterations", "stopped", "seconds", "failure")


def score_columns(judge: RunJudge) -> tuple[str, ...]:
    """Return the columns of `scores.csv`: every example metric, except metrics that repeat the column `success`."""
    return (*_BEFORE, *(metric.column_name for metric in _metrics(judge)), *_AFTER)


def scores(record: RunRecord, judge: RunJudge) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `scores.csv`: a row per arm, attack, victim and example; failed victims have no scores."""
    metrics = _metrics(judge)
    for arm in record.arms:
        for attack in arm.attacks:
            for victim in attack.victims:
                yield from _score_rows(arm, attack, victim, judge, metrics)


def _metrics(judge: RunJudge) -> list[Metric]:
    """Return the installed metrics, and the metrics of the record, in order."""
    known = {**registry.every_metric(), **judge.metrics_by_name}.values()
    return [
        metric for metric in known if metric.over == "item" and metric.tables != "none" and not _says_success(metric)
    ]


def _says_success(metric: Metric) -> bool:
    """Return whether a metric only repeats the column `success`."""
    return metric.form == "flag" and metric.threshold is not None


def _score_rows(
    arm: ArmRecord, attack: AttackFinding, victim: VictimRecord, judge: RunJudge, metrics: Sequence[Metric]
) -> Iterator[tuple[Any, ...]]:
    start = (arm.name, attack.label, victim.round, "+".join(map(str, victim.clients)) or victim.client)
    end = (
        victim.objective,
        victim.objective_at_truth,
        victim.iterations,
        victim.stopped,
        victim.seconds,
        victim.failure,
    )
    if victim.failure is not None or not victim.examples:
        yield (*start, *(None,) * (3 + len(metrics)), "failed", *end)
        return
    for item in victim.scores:
        values = (metric.plain(item.values[metric.name]) if metric.name in item.values else None for metric in metrics)
        yield (*start, item.index, item.label, item.guessed_label, *values, judge.success.has_succeeded(item), *end)
