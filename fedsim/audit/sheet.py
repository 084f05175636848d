"""Evidence sheet of an audit on a single page: attacker, results, untested attacks, requirements of external texts."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.audit import planted, scoring, table_cells, verdict
from fedsim.audit.limits import best_membership, client_thresholds
from fedsim.audit.page import headline, subject_of
from fedsim.audit.record import AuditRecord
from fedsim.judgement.outcome import outcome_of
from fedsim.questions.exposure.question import ITEMS
from fedsim.report.document import Block, Code, Document, Section, bullets, note, paragraph, table
from fedsim.report.sections.approval import Requirement, cut, limits_table, requirements_table
from fedsim.report.sections.environment import environment_facts

_AISVS = "OWASP AISVS, draft of April 2026,"  # version 1.0 has no privacy chapter: its 12.3 is about drift
_LONGEST_WHY, _LONGEST_ADVICE = 260, 420  # characters that fit on an A4 page


def build(record: AuditRecord) -> Document:
    """Return the evidence sheet."""
    asked = requirements_table(requirements(record))
    return Document(
        title=f"Evidence on the updates of {record.plan.target}",
        opening=(headline(record),),
        sections=(
            Section("The audited client and the attacker", (_subject(record), bullets(record.threat_model))),
            Section(
                "Thresholds and defenses",
                (_verdict(record), paragraph(cut(verdict.sentence(record), _LONGEST_ADVICE))),
            ),
            Section("What was found", tuple(_results(record))),
            Section("What was not tested", (bullets(not_tested(record)),)),
            Section("Requirements of other documents, in fedsim's own words", (asked,)),
            Section("Run it again", (Code(record.environment.command), _environment(record))),
        ),
        is_sheet=True,
    )


def _environment(record: AuditRecord) -> Block:
    facts = {"Seed": paragraph(str(record.plan.seed)), **dict(environment_facts(record.environment))}
    return note("; ".join(f"{term}: {value.text}" for term, value in facts.items()), ".")


def _subject(record: AuditRecord) -> Block:
    return paragraph(f"{subject_of(record)}; audited {record.started[:10]} for {record.seconds:.0f} s.")


def _verdict(record: AuditRecord) -> Block:
    thresholds = client_thresholds(record)
    if not thresholds:
        return paragraph("No policy states thresholds, so none is judged.")
    return limits_table(thresholds, _LONGEST_WHY)


def _results(record: AuditRecord) -> Iterator[Block]:
    success = f"{scoring.rule(record)}, 95 % interval"
    headings = ("batch", "updates", "searched", success, "ideal attacker", "state")
    rows = [
        (
            str(arm.batch_size),
            *([arm.failure, *[""] * 4] if arm.failure else table_cells.searches(record, arm)),
            *([] if arm.failure else [outcome_of(arm.victims, record.plan.scoring.rule)]),
        )
        for arm in record.client
    ]
    yield table("Attacks on updates", headings, rows, headings)
    yield paragraph(" ".join(_other_results(record)))


def _other_results(record: AuditRecord) -> Iterator[str]:
    """Yield the results on members and secrets, and the guarantees."""
    if best := best_membership(record.of("membership")):
        yield f"Members: {best[0]} finds {table_cells.interval(best[1], 100, 0)} % at 1 % false positives."
    stated = (
        f"epsilon {guarantee.epsilon:.3g} at delta {guarantee.delta:g} ({guarantee.source})"
        for guarantee in record.guarantees
    )
    yield f"Guarantees: {', '.join(stated) or 'none'}."
    yield "The ideal attacker is measured to first order at the truth and is no guarantee. A failed attack is none."
    if exposure := record.of("exposure"):
        yield planted.sentence_of(exposure)


def not_tested(record: AuditRecord) -> tuple[str, ...]:
    """Return the risks that this audit does not test."""
    members = () if record.of("membership") else ("membership in the training data",)
    secrets = () if record.of("exposure") else ("secrets that the trained model memorised",)
    return (
        "a server that changes the model it sends, or several colluding clients",
        "joint leakage of many rounds, beyond the stated guarantees",
        "attacks that are not known yet: only a guarantee holds against them",
        *members,
        *secrets,
    )


def _secrets(record: AuditRecord) -> str:
    if ITEMS not in record.items:
        return "no canary was planted, since only audits of causal language models do; fedsim run plants them elsewhere"
    repetitions = record.items[ITEMS]["repetitions"]
    planted_ = sum(number > 0 for number in repetitions)
    return f"{planted_} secrets planted and {len(repetitions) - planted_} not planted, in a single training"


def requirements(record: AuditRecord) -> tuple[Requirement, ...]:
    """Return requirements of three external texts with the audit's evidence; the reader judges whether it suffices."""
    stated = max((guarantee.epsilon for guarantee in record.guarantees), default=None)
    budget = "the client states no guarantee, so no budget can be recorded"
    if stated is not None:
        rounds = record.training.rounds if record.training else 1
        budget = f"epsilon {stated:.3g} over {rounds} rounds; a policy with max_epsilon fails above it"
    attacks = f"{sum(len(arm.victims) for arm in record.client)} updates attacked, with intervals"
    attacks_on_members = sum(not finding.failure for finding in record.of("membership"))
    members = f"{attacks_on_members} membership attacks" if attacks_on_members else "no membership attack"
    return (
        Requirement(
            f"{_AISVS} 12.3.1", "epsilon and delta recorded for every round, and an alert above a policy", budget
        ),
        Requirement(
            f"{_AISVS} 12.3.4",
            "audits by canaries of federated learning, logged in each training cycle",
            _secrets(record),
        ),
        Requirement(
            "EDPB Opinion 28/2024",
            "an insignificant likelihood of extracting personal data, against all means reasonably likely to be used",
            f"{attacks}; {members}; the ideal attacker",
        ),
        Requirement(
            "EDPB Opinion 28/2024",
            "tests of resistance: membership and attribute inference, exfiltration, regurgitation, model inversion, "
            "reconstruction",
            f"reconstruction: {attacks}; membership: {members}; regurgitation: {_secrets(record)}. Attribute "
            "inference, exfiltration and inversion of the trained model are not tested",
        ),
        Requirement(
            "NIST SP 800-226",
            "the privacy loss and the unit of privacy of a guarantee, and the trusted parties",
            "; ".join(
                f"epsilon {guarantee.epsilon:.3g}, unit {guarantee.unit}, against {guarantee.adversary}"
                for guarantee in record.guarantees
            )
            or "no guarantee is stated",
        ),
    )
