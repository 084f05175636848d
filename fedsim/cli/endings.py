"""Terminal output at the end of a run: result tables, privacy guarantees and doubts about the ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsim.record import ArmRecord, AttackFinding, Finding, RunRecord
from fedsim.report.brief import summarise_run
from fedsim.report.document import Block, paragraph
from fedsim.report.tables.attacks import attacks_of, results
from fedsim.report.tables.findings import findings_table, questions
from fedsim.report.tables.guarantees import guarantees
from fedsim.report.tables.metric_tables import metric_tables
from fedsim.report.verdict import RunJudge, has_guess


def figures(record: RunRecord) -> Iterator[Block]:
    """Yield the tables of the run's page that a terminal shows, then the notes of the findings."""
    judge = RunJudge.of(record)
    if attacks_of(record):
        yield results(record, judge)
    yield from metric_tables(record, judge)
    yield from (findings_table(record, question) for question in questions(record))
    bounds = guarantees(record)
    if bounds.groups:
        yield bounds
    yield from (paragraph(finding.note) for arm in record.arms for finding in arm.findings if finding.note)


def doubt_truth(record: RunRecord) -> list[str]:
    """Return one sentence per arm in which the replay of the clients did not reproduce the sent updates."""
    return [
        f"The ground truth of {arm.name} is uncertain: the replay of the clients gave another "
        "update than the sent update, so scores may use the wrong images. The model, a "
        "component or a defense uses random numbers that do not depend on the seed, or keeps "
        "state between calls."
        for arm in record.arms
        if arm.attacks and not arm.replay_matches
    ]


def summary_of(record: RunRecord, page: Path) -> dict[str, Any]:
    """Return the summary of a run for programs: status, verdict, arms and the paths of page and record."""
    return {
        "title": record.plan["title"],
        "status": record.status,
        "verdict": list(summarise_run(record)),
        "report": str(page),
        "record": str(page.with_name("record.json")),
        "arms": [_arm(arm) for arm in record.arms],
    }


def _arm(arm: ArmRecord) -> dict[str, Any]:
    tested = next((entry.test_metrics for entry in reversed(arm.rounds) if entry.test_metrics), {})
    return {
        "name": arm.name,
        "values": arm.values,
        "model_hash": arm.model_hash,
        "truth_is_sure": arm.replay_matches,
        "tested": tested,
        "findings": [_drop_victims(finding) for finding in arm.findings],
        "guarantees": [guarantee.model_dump(mode="json") for guarantee in arm.guarantees],
    }


def _drop_victims(finding: Finding) -> dict[str, Any]:
    """Return a finding with its victims replaced by the number of updates on which the attack failed."""
    failed = isinstance(finding, AttackFinding) and sum(not has_guess(victim) for victim in finding.victims)
    fields = finding.model_dump(mode="json", exclude={"victims"})
    return {**fields, **({"failed": failed} if failed else {})}
