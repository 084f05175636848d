"""Findings as a flat table for programs, a row per metric value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedsim.record.findings import Finding
from fedsim.record.parts import Interval
from fedsim.record.runs import ArmRecord, RunRecord

FINDING_COLUMNS: Mapping[str, str] = {
    "arm": "arm within the run",
    "question": "the question: name of the scenario's table",
    "label": "attack, attacker or comparison, as named in the report",
    "method": "name of the attack; empty where none was needed",
    "about": "subject of the value",
    "role": "attack, positive-control, negative-control or context",
    "metric": "of value, low, high, chance and limit",
    "is_main": "whether this metric is the finding's main metric",
    "value": "measured value",
    "low": "lower end of its interval",
    "high": "upper end",
    "n": "units that the interval is over",
    "chance": "the value without any information",
    "limit": "the largest possible value, where it depends on the question",
    "p": "p-value of the permutation test; empty without a test",
    "state": "recovered, withstood, undecided, invalid or failed",
    "failure": "reason for a missing value; empty otherwise",
    "invalid": "why the value does not count; empty otherwise",
}


def finding_rows(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield a row of plain values for every metric value of every finding, with keys `FINDING_COLUMNS`."""
    for arm in record.arms:
        for finding in arm.findings:
            for name, value in finding.figures.items():
                yield _row(arm, finding, name, value, is_main=name == finding.metric)


def _row(arm: ArmRecord, finding: Finding, metric: str, value: Interval | None, *, is_main: bool) -> dict[str, Any]:
    identity = (
        arm.name,
        finding.question,
        finding.label,
        finding.method,
        finding.scope_in_words,
        finding.role,
        metric,
        is_main,
    )
    interval = (None,) * 4 if value is None else (value.value, value.low, value.high, value.n)
    chance_cells = (finding.chance_level, finding.max_value, finding.p_value) if is_main else (None,) * 3
    outcome = (finding.state, finding.failure, finding.invalid)
    return dict(zip(FINDING_COLUMNS, (*identity, *interval, *chance_cells, *outcome), strict=True))
