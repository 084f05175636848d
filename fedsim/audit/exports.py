"""An audit for others: JUnit for a pipeline, SARIF for a code host, and a section of a model card for people."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from fedsim.audit import evidence, screen, verdict
from fedsim.audit.record import AuditRecord, Inspection

CARD = "model-card.md"
_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"kept": "none", "broken": "error", "undecided": "warning"}

State = Literal["kept", "broken", "undecided"]


class Finding(NamedTuple):
    """One threshold of the policy: its name, what became of it, and why in a sentence."""

    rule: str
    where: str
    state: State
    text: str


def findings(record: AuditRecord) -> tuple[Finding, ...]:
    """Return what became of every threshold that the policy states of the client."""
    return tuple(_findings(record))


def _findings(record: AuditRecord) -> Iterator[Finding]:
    policy = record.policy
    if policy.max_recognisable is not None:
        for own in record.inspections:
            yield _one(record, "max_recognisable", f"batch {own.batch_size}", {"inspections": (own,)})
    if policy.max_membership_tpr is not None:
        yield _one(record, "max_membership_tpr", "membership", {"inspections": ()})
    if policy.max_epsilon is not None:
        yield _one(record, "max_epsilon", "guarantees", {"inspections": ()})


def _one(record: AuditRecord, rule: str, where: str, part: dict[str, Any]) -> Finding:
    """Judge one threshold alone, by the same functions as the whole."""
    alone = {name: None for name in type(record.policy).model_fields if name.startswith("max_") and name != rule}
    only = record.model_copy(update={**part, "policy": record.policy.model_copy(update=alone)})
    if broken := verdict.broken(only):
        return Finding(rule, where, "broken", " ".join(broken))
    if unjudged := verdict.unjudged(only):
        return Finding(rule, where, "undecided", " ".join(unjudged))
    return Finding(rule, where, "kept", "")


def junit(record: AuditRecord) -> bytes:
    """Return a test suite with a case for each threshold; what is undecided fails unless the policy lets it pass."""
    found = findings(record)
    fails = record.policy.undecided == "fail"
    failing = [own for own in found if own.state == "broken" or (own.state == "undecided" and fails)]
    suite = ET.Element(
        "testsuite",
        name=f"fedsim audit {record.plan.target}",
        tests=str(len(found)),
        failures=str(len(failing)),
        errors="0",
        skipped=str(sum(own.state == "undecided" for own in found if own not in failing)),
        time=f"{record.seconds:.1f}",
    )
    for own in found:
        case = ET.SubElement(suite, "testcase", classname=record.plan.target, name=f"{own.rule} ({own.where})")
        if own in failing:
            ET.SubElement(case, "failure", message=own.text, type=own.state).text = own.text
        elif own.state == "undecided":
            ET.SubElement(case, "skipped", message=own.text)
    return ET.tostring(suite, encoding="utf-8", xml_declaration=True)


def sarif(record: AuditRecord) -> bytes:
    """Return a SARIF 2.1.0 log with a result for each threshold that is not kept."""
    found = [own for own in findings(record) if own.state != "kept"]
    rules = [{"id": rule} for rule in dict.fromkeys(own.rule for own in found)]
    results = [
        {
            "ruleId": own.rule,
            "level": _LEVELS[own.state],
            "message": {"text": own.text},
            "locations": [{"logicalLocations": [{"fullyQualifiedName": record.plan.target, "kind": "function"}]}],
            "properties": {"state": own.state, "where": own.where},
        }
        for own in found
    ]
    driver = {"name": "fedsim", "version": record.environment.versions.get("fedsim-privacy", ""), "rules": rules}
    log = {"$schema": _SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=1).encode()


def card(record: AuditRecord) -> bytes:
    """Return a Markdown section for a model card: who attacked, what was found, what was not tested, how to repeat."""
    lines = [
        "## Privacy of updates",
        "",
        f"Audited with fedsim on {record.started[:10]}: `{record.plan.target}`, {record.parameters:,} parameters.",
        "",
        *(f"- {sentence}" for sentence in record.threat_model),
        "",
        "| batch | updates | searched | recovered (95 % interval) | ideal attacker | state |",
        "|---|---|---|---|---|---|",
        *(_row(record, own) for own in record.inspections if own.failure is None),
        "",
        *(f"- {own.rule}, {own.where}: {own.state}. {own.text}".rstrip() for own in findings(record)),
        "",
        verdict.sentence(record),
        "",
        "Not tested: a server that changes the model, several colluding rounds, and attacks that are not known yet. A "
        "failed attack is no guarantee.",
        "",
        f"To repeat it: `{record.environment.command}`",
        "",
    ]
    return "\n".join(lines).encode()


def _row(record: AuditRecord, own: Inspection) -> str:
    scoring = record.plan.scoring
    cells = (
        str(own.batch_size),
        str(len(own.victims)),
        screen.searched(own),
        screen.recovered(own),
        evidence.ideal(own, scoring),
        evidence.state(own, scoring),
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
