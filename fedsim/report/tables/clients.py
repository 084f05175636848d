"""Tables of clients: data partition, participation, and failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import get_args

from fedsim.record import ArmRecord, AttackFinding, Cause, PartitionRecord, RoundRecord, RunRecord, VictimRecord
from fedsim.report.document import Table, TableRow
from fedsim.report.tables.figures import with_noun

CAUSES: tuple[Cause, ...] = get_args(Cause)


@dataclass(frozen=True)
class Ownership:
    """A data partition with a summary sentence; `arm` names every arm that uses it."""

    arm: str
    sentence: str
    partition: PartitionRecord


@dataclass(frozen=True)
class RoundParticipation:
    """A round's cohort size, counted updates, and lost updates by cause in CAUSES."""

    round: int
    cohort: int
    counted_updates: int
    lost_updates: tuple[int, ...]


@dataclass(frozen=True)
class ArmParticipation:
    """Participation in an arm: a summary sentence and the turnout of each round."""

    arm: str
    sentence: str
    rounds: tuple[RoundParticipation, ...]


def failures(record: RunRecord) -> Table:
    """Return the table of all failures and inapplicable attacks: location, actor, reason."""
    rows = [TableRow.of("run", failure.subject, failure.reason) for failure in record.failures]
    for arm in record.arms:
        for entry in arm.rounds:
            place = f"{arm.name}, round {entry.round}"
            rows += [TableRow.of(place, ", ".join(clients), why) for why, clients in _clients_by_reason(entry).items()]
        for attack in arm.attacks:
            rows += _failed_attacks(arm, attack)
        lost = [finding for finding in arm.answers if finding.failure]
        rows += [TableRow.of(arm.name, f"{finding.question}: {finding.label}", finding.failure) for finding in lost]
    return Table.of("Failures", ("where", "who", "why"), rows)


def ownerships(record: RunRecord) -> list[Ownership]:
    """Return every partition among several clients once, in order of appearance."""
    names: dict[PartitionRecord, list[str]] = {}
    for arm in record.arms:
        if arm.partition is not None and arm.partition.clients > 1:
            names.setdefault(arm.partition, []).append(arm.name)
    return [Ownership("; ".join(arms), _partition_sentence(partition), partition) for partition, arms in names.items()]


def attendances(record: RunRecord) -> list[ArmParticipation]:
    """Return the participation of every arm with varying cohort sizes or a lost update."""
    by_arm = [(arm.name, tuple(_turnout(entry) for entry in arm.rounds)) for arm in record.arms]
    return [
        ArmParticipation(name, _participation_sentence(rounds), rounds)
        for name, rounds in by_arm
        if len({turnout.cohort for turnout in rounds}) > 1 or any(any(turnout.lost_updates) for turnout in rounds)
    ]


def _turnout(entry: RoundRecord) -> RoundParticipation:
    lost = Counter(failure.cause for failure in entry.failures)
    cohort = len(entry.cohort)
    return RoundParticipation(entry.round, cohort, cohort - lost.total(), tuple(lost[cause] for cause in CAUSES))


def _participation_sentence(rounds: tuple[RoundParticipation, ...]) -> str:
    cohort, counted = sum(turnout.cohort for turnout in rounds), sum(turnout.counted_updates for turnout in rounds)
    totals = [sum(column) for column in zip(*(turnout.lost_updates for turnout in rounds), strict=True)]
    lost = [f"{total:,} {cause}" for cause, total in zip(CAUSES, totals, strict=True) if total]
    blank = sum(turnout.counted_updates == 0 for turnout in rounds)
    sentence = f"Of {with_noun(cohort, 'update')} requested in {with_noun(len(rounds), 'round')}, "
    sentence += f"{counted:,} counted" + (f"; lost: {', '.join(lost)}." if lost else ".")
    return sentence + (f" No update counted in {with_noun(blank, 'round')}, which kept the weights." if blank else "")


def _clients_by_reason(entry: RoundRecord) -> dict[str, list[str]]:
    """Return the clients that failed in a round, by reason, so that many dropouts share a row."""
    reasons: dict[str, list[str]] = {}
    for failure in entry.failures:
        reasons.setdefault(failure.reason, []).append(failure.subject)
    return reasons


def _partition_sentence(partition: PartitionRecord) -> str:
    sizes = f"between {partition.examples_min:,} and {partition.examples_max:,} examples, median "
    sizes += f"{partition.examples_median:,g}"
    if partition.examples_min == partition.examples_max:
        sizes = with_noun(partition.examples_min, "example")
    measured = f"the first {partition.clients_measured:,} own"
    if partition.clients_measured == partition.clients:
        measured = "each owns"
    return f"{partition.clients:,} clients, scheme {partition.scheme}: {measured} {sizes}."


def _failed_attacks(arm: ArmRecord, attack: AttackFinding) -> list[TableRow]:
    """Return a row per reason and round, so that an attack that never applied stays compact."""
    victims: dict[tuple[int, str], list[VictimRecord]] = {}
    for victim in attack.victims:
        if victim.failure is not None:
            victims.setdefault((victim.round, victim.failure), []).append(victim)
    return [
        TableRow.of(f"{arm.name}, round {number}, attack {attack.label}", _names(of_round), why)
        for (number, why), of_round in victims.items()
    ]


def _names(victims: list[VictimRecord]) -> str:
    """Return the victims' names; the victims of a round are either single clients or a single sum."""
    if victims[0].clients:
        return victims[0].sender
    return f"client {', '.join(str(victim.client) for victim in victims)}"
