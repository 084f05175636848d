"""Attack what an adapter made of a thing."""

from fedsim.audit import AuditPlan
from fedsim.audit.record import KNOWS
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import Subject, check_subject
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.judgement.outcome import outcome_of
from fedsim.questions.base import QuestionContext
from fedsim.record import AttackFinding, Outcome
from fedsim.scenario import Scoring

SECONDS = 60.0  # far more than these attacks take: the clock decides nothing


def attacked(subject: Subject, batch: int = 1, most: int = 2, iterations: int = 10) -> AttackFinding:
    """Attack updates of a subject's client with a short search after the exact attacks."""
    world = world_of(check_subject(subject, "test"), AuditPlan(target="test"), batch)
    return UpdateAttacker(KNOWS, lambda _line: None).inspect(
        world, updates(world), QuestionContext(), most, iterations, SECONDS
    )


def answered(subject: Subject, batch: int) -> tuple[float, Outcome]:
    """Return which share of the examples behind updates came back, and what the audit says of these updates."""
    finding = attacked(subject, batch, iterations=200)
    return finding.value.value, outcome_of(finding.victims, Scoring().rule)


def share(subject: Subject, batch: int = 1) -> float:
    """Return which share of the examples behind updates came back."""
    value = attacked(subject, batch).value
    return value.value
