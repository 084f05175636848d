"""What traces of generations gave away, as a table: one row for every finding of every finished run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedsim.experiment.sweep.results import Found
from fedsim.record import ArmRecord, RunRecord, TraceFinding

COLUMNS = {
    "arm": "arm within the run",
    "decoder": "what wrote",
    "question": "prompt, member, planted or bits",
    "label": "label of the finding",
    "attack": "name of the attack; empty for what needs no trace",
    "view": "what the attacker saw",
    "mitigation": "what hid the traces",
    "role": "attack, or a control: must succeed, or chance",
    "metric": "of value, low, high and chance",
    "value": "what was found",
    "low": "lower end of its interval",
    "high": "upper end",
    "n": "units that the interval is over",
    "chance": "the value without any information",
    "p": "of a permutation test, where there was one",
    "longer": "how many times as many steps the mitigation needs",
    "larger": "how many times as many tokens it sends",
    "failure": "why there is no value; empty otherwise",
}
BEFORE = {
    "run": "hash of the resolved scenario",
    "setting": "what the sweep set, for people",
    "seed": "seed of the run",
}


def findings(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield a row for every finding of a run, by column."""
    for arm in record.arms:
        for own in arm.generation.findings if arm.generation is not None else ():
            yield _row(arm, own)


def findings_of(found: Found) -> list[dict[str, Any]]:
    """Return the rows of all records of a sweep, with the values that it set."""
    return [
        {
            "run": planned.digest,
            "setting": planned.name,
            "seed": record.scenario.get("seed"),
            **row,
            **planned.values,
        }
        for planned, record in found
        if not isinstance(record, str)
        for row in findings(record)
    ]


def _row(arm: ArmRecord, own: TraceFinding) -> dict[str, Any]:
    assert arm.generation is not None, "it has findings"
    found = own.found
    return {
        "arm": arm.name,
        "decoder": arm.generation.decoder,
        "question": own.question,
        "label": own.label,
        "attack": own.name,
        "view": own.view,
        "mitigation": own.mitigation,
        "role": own.role,
        "metric": own.metric,
        "value": found.value if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "n": found.n if found else None,
        "chance": own.chance,
        "p": own.p,
        "longer": own.longer,
        "larger": own.larger,
        "failure": own.failure or "",
    }
