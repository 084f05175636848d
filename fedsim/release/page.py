"""A release check as a document for approvers."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.record import Finding, Outcome
from fedsim.release import verdict
from fedsim.release.record import ReleaseRecord
from fedsim.report.document import (
    Block,
    Document,
    Section,
    TableCell,
    TableRow,
    Verdict,
    bullets,
    note,
    paragraph,
    table,
)
from fedsim.report.levels import LEVEL_OF
from fedsim.report.sections.approval import Requirement, limits_table, requirements_table
from fedsim.report.sections.environment import repeat_section
from fedsim.report.verdict import bounds

_COUNTED: tuple[Outcome, ...] = ("recovered", "undecided", "invalid", "withstood")
_EDPB = "EDPB Opinion 28/2024"
_SATRE = "SATRE 2.0.1, 3.3.07"


def build(record: ReleaseRecord) -> Document:
    """Return the document."""
    state, sentence = verdict.answer(record)
    caution = note("fedsim's own words. Read the texts themselves; whether this suffices is for you to judge.")
    sections = (
        Section("What was attacked", tuple(_subject(record))),
        Section("What was tried", tuple(_attack_blocks(record))),
        Section("The policy", (policy_table(record),)),
        Section("What was not tested", (bullets(not_tested(record)),)),
        Section("Requirements of other documents", (requirements_table(requirements(record)), caution)),
        repeat_section(record.environment, str(record.plan.seed)),
    )
    return Document(
        title=f"Release check of {record.plan.weights.name}",
        kicker=f"fedsim release · {record.started}",
        opening=(Verdict(LEVEL_OF[state], sentence),),
        sections=sections,
    )


def _subject(record: ReleaseRecord) -> Iterator[Block]:
    yield paragraph(
        f"{record.plan.target}, {record.parameters:,} parameters; {record.members} members and "
        f"{record.non_members} non-members."
    )
    yield table("SHA-256", ("file", "hash"), list(record.hashes.items()), ("hash",), "words")
    yield from map(note, record.notes)


def _attack_blocks(record: ReleaseRecord) -> Iterator[Block]:
    yield results(record)
    yield note(
        "95 % intervals. Control: the same scores with shuffled labels, mean and 95 % range; "
        "for secrets and texts, secrets and texts that the model never saw. p: share of "
        "shuffles at least as extreme, after Holm over all rows. Recovered: the interval lies "
        "above chance, and p is at most 5 %. Withstood: the interval ends at most "
        f"{verdict.MARGIN:g} above chance ({verdict.BITS:g} bit of exposure). Sites with "
        "different data can be separated even without memorisation of single examples."
    )
    reasons: dict[str, list[str]] = {}
    for failure in record.failed_findings:
        reasons.setdefault(failure.failure, []).append(failure.label)
    yield from (note(f"Did not apply: {', '.join(labels)}: {why}.") for why, labels in reasons.items())


def results(record: ReleaseRecord) -> Block:
    """Return the table of results: value, chance, control, p, state, and the n that would halve the interval."""
    headings = ("attack", "state", "figure", "n", "value", "chance", "control", "p", "n for half the interval")
    rows = [_row(record, attack) for attack in record.attacks]
    return table("Attacks on the finished model", headings, rows, ("figure", "state"))


def _row(record: ReleaseRecord, finding: Finding) -> TableRow:
    metric = verdict.metric_of(finding)
    return TableRow.of(
        finding.label,
        TableCell(finding.state, level=LEVEL_OF[finding.state]),
        metric.title,
        str(finding.n),
        _cell(finding),
        "" if finding.chance_level is None else metric.format(finding.chance_level),
        _cell(record.control_of(finding)),
        "" if finding.p_value is None else f"{finding.p_value:.2g}",
        str(verdict.TO_HALVE * finding.n),
    )


def _cell(finding: Finding) -> TableCell:
    metric, value = verdict.metric_of(finding), finding.value
    if value is None:
        return TableCell()
    return TableCell(metric.format(value.value), bounds(value, metric.scale, metric.digits))


def policy_table(record: ReleaseRecord) -> Block:
    """Return the state of each threshold, or a note that the policy is empty."""
    if judged := verdict.thresholds(record):
        return limits_table(judged)
    return note("No policy limits the leakage of a finished model, so exit code 0 means only that the check ran.")


def not_tested(record: ReleaseRecord) -> tuple[str, ...]:
    """Return the questions that this check does not cover."""
    sites = () if record.of("sources") else ("which site an example came from: --sites was not given",)
    secrets = () if record.plan.secrets else ("secrets planted before the training: --secrets was not given",)
    shadows = () if record.plan.reference else ("attacks with models of the attacker's own: --reference was not given",)
    return (
        "leakage of the training's updates: use fedsim audit",
        "inference of attributes, and examples made from the model by inversion",
        "members outside the given members, and attacks that are not known yet",
        *sites,
        *secrets,
        *shadows,
    )


def requirements(record: ReleaseRecord) -> tuple[Requirement, ...]:
    """Return the requirements of two regulatory texts with the evidence of this check."""
    n = len(record.attacks)
    counts = {state: sum(attack.state == state for attack in record.attacks) for state in _COUNTED}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state != "invalid")
    members, sites, memory = (len(record.of(question)) for question in ("membership", "sources", "exposure"))
    return (
        Requirement(
            _EDPB,
            "an insignificant likelihood of extracting personal data from a model or by its answers, against all means "
            "reasonably likely to be used",
            f"{n} figures of known attacks with intervals: {states}",
        ),
        Requirement(
            _EDPB,
            "tests of resistance: membership and attribute inference, exfiltration, regurgitation, model inversion, "
            "reconstruction",
            f"results of membership: {members}, of regurgitation: {memory}. The others are not tested here",
        ),
        Requirement(
            _EDPB,
            "documents of the tests and of their results",
            "this document and its record, with hashes of weights and code, and the command that repeats it",
        ),
        Requirement(
            _SATRE,
            "a policy on the release of trained models, with technical controls first, since "
            "nobody can check weights by hand",
            f"such a control: results of membership: {members}, of sites: {sites}, of memory: {memory}",
        ),
    )
