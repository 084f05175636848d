"""Machine-readable verdicts of an audit: JUnit for a pipeline, SARIF for a code host."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

from fedsim.audit.limits import client_thresholds
from fedsim.audit.record import AuditRecord
from fedsim.judgement.limits import exit_code
from fedsim.report.limits import sentence

_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"kept": "none", "broken": "error", "undecided": "warning"}


def junit(record: AuditRecord) -> bytes:
    """Return a JUnit suite with a case per threshold; an undecided threshold fails unless the policy passes it."""
    thresholds = client_thresholds(record)
    failing = [threshold for threshold in thresholds if exit_code(record.policy, [threshold.state])]
    suite = ET.Element(
        "testsuite",
        name=f"fedsim audit {record.plan.target}",
        tests=str(len(thresholds)),
        failures=str(len(failing)),
        errors="0",
        skipped=str(sum(threshold.state == "undecided" for threshold in thresholds if threshold not in failing)),
        time=f"{record.seconds:.1f}",
    )
    for verdict in thresholds:
        case = ET.SubElement(suite, "testcase", classname=record.plan.target, name=f"{verdict.rule} ({verdict.where})")
        if verdict in failing:
            ET.SubElement(case, "failure", message=sentence(verdict), type=verdict.state).text = sentence(verdict)
        elif verdict.state == "undecided":
            ET.SubElement(case, "skipped", message=sentence(verdict))
    return ET.tostring(suite, encoding="utf-8", xml_declaration=True)


def sarif(record: AuditRecord) -> bytes:
    """Return a SARIF 2.1.0 log with a result per threshold that is broken or undecided."""
    open_ = [threshold for threshold in client_thresholds(record) if threshold.state != "kept"]
    rules = [{"id": rule} for rule in dict.fromkeys(threshold.rule for threshold in open_)]
    results = [
        {
            "ruleId": threshold.rule,
            "level": _LEVELS[threshold.state],
            "message": {"text": sentence(threshold)},
            "locations": [{"logicalLocations": [{"fullyQualifiedName": record.plan.target, "kind": "function"}]}],
            "properties": {"state": threshold.state, "where": threshold.where},
        }
        for threshold in open_
    ]
    driver = {"name": "fedsim", "version": record.environment.versions.get("fedsim-privacy", ""), "rules": rules}
    log = {"$schema": _SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=1).encode()
