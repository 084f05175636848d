"""One printable page of evidence: who was audited against whom, what was found, what not tested, how to repeat it."""

from __future__ import annotations

from typing import NamedTuple

from fedsim.audit import evidence, exports, planted, screen, verdict
from fedsim.audit.record import AuditRecord
from fedsim.core.plain import printable
from fedsim.questions.exposure import ITEMS

FILE = "evidence.html"
_AISVS = "OWASP AISVS, draft of April 2026,"  # the standard 1.0 has no chapter on privacy: its 12.3 is about drift


class Asked(NamedTuple):
    """What a text asks for, in a few words of its own, and what this audit has of it."""

    text: str
    asks: str
    has: str


def page(record: AuditRecord) -> bytes:
    """Return the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - keeps `import fedsim.audit` cheap

    environment = Environment(
        loader=PackageLoader("fedsim.audit", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made = environment.get_template("evidence.html.j2").render(
        record=record,
        findings=exports.findings(record),
        sentence=verdict.sentence(record),
        state=evidence.state,
        ideal=evidence.ideal,
        searched=screen.searched,
        recovered=screen.recovered,
        rule=screen.rule(record.plan.scoring, record.noun),
        best=verdict.best_membership(record.findings),
        interval=screen.interval,
        not_tested=not_tested(record),
        asked=asked(record),
        remembers=planted.sentence_of(record.of("exposure")) if record.of("exposure") else "",
    )
    return printable(made).encode()


def not_tested(record: AuditRecord) -> tuple[str, ...]:
    """Return what this audit says nothing about."""
    found = [
        "a server that changes the model it sends, or several colluding clients",
        "what many rounds give away together, beyond the guarantees that are stated",
        "attacks that are not known yet: only a guarantee holds against them",
    ]
    if not record.of("membership"):
        found.append("who was a member of the training data")
    if record.noun == "sentence" and not record.of("exposure"):
        found.append("secrets that a trained language model memorised")
    return tuple(found)


def _secrets(record: AuditRecord) -> str:
    if ITEMS not in record.items:
        return "no canary was planted, since only audits of causal language models do; fedsim run plants them elsewhere"
    repetitions = record.items[ITEMS]["repetitions"]
    planted_ = sum(number > 0 for number in repetitions)
    return f"{planted_} secrets planted beside {len(repetitions) - planted_} that were not, in one training"


def asked(record: AuditRecord) -> tuple[Asked, ...]:
    """Return what three texts ask for beside what this audit has; whether that suffices is for others to judge."""
    stated = max((own.epsilon for own in record.guarantees), default=None)
    budget = "the client states no guarantee, so there is no budget to record"
    if stated is not None:
        rounds = record.training.rounds if record.training else 1
        budget = f"epsilon {stated:.3g} over {rounds} rounds; a policy with max_epsilon fails above it"
    attacks = f"{sum(len(own.victims) for own in record.inspections)} updates attacked, with intervals"
    attacks_on_members = len(record.of("membership"))
    members = f"{attacks_on_members} membership attacks" if attacks_on_members else "no membership attack"
    return (
        Asked(f"{_AISVS} 12.3.1", "epsilon and delta recorded for every round, and an alert above a policy", budget),
        Asked(
            f"{_AISVS} 12.3.4",
            "audits by canaries of federated learning, logged in each training cycle",
            _secrets(record),
        ),
        Asked(
            "EDPB Opinion 28/2024",
            "an insignificant likelihood of extracting personal data, against all means reasonably likely to be used",
            f"{attacks}; {members}; the ideal attacker beside them",
        ),
        Asked(
            "EDPB Opinion 28/2024",
            "tests of resistance: membership and attribute inference, exfiltration, regurgitation, model inversion, "
            "reconstruction",
            f"reconstruction: {attacks}; membership: {members}; regurgitation: {_secrets(record)}. Attribute "
            "inference, exfiltration and inversion of the trained model are not tested",
        ),
        Asked(
            "NIST SP 800-226",
            "the privacy loss and the unit of privacy of a guarantee, and who is trusted",
            "; ".join(f"epsilon {own.epsilon:.3g}, unit {own.unit}, against {own.against}" for own in record.guarantees)
            or "no guarantee is stated",
        ),
    )
