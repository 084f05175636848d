"""What attacks on updates found, arm by arm, and why they did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.metrics.evidence import reach
from fedsim.record import ArmRecord, AttackRecord, ItemScore, RunRecord, VictimRecord
from fedsim.report.tables.figures import NOTHING, Estimate, _scientific, cost, duration, estimate, figure_of
from fedsim.report.verdict import Column, Judge, has_result, knowledge


@dataclass(frozen=True)
class Result:
    """One attack in one arm; `figures` are those of `headings`, in order."""

    attack: str
    is_control: bool
    n: int
    recovered: str
    success: Estimate
    figures: tuple[Estimate, ...]
    seconds: str
    reason: str
    ceiling: str


@dataclass(frozen=True)
class Results:
    """All attacks of one arm, with what the arm costs in accuracy."""

    arm: str
    model: str
    accuracy: str
    cost: str
    rows: tuple[Result, ...]


@dataclass(frozen=True)
class Diagnosis:
    """How one search ended."""

    attack: str
    victim: str
    objective: str
    at_truth: str
    iterations: str
    stopped: str
    reading: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """One text of a client, and what an attack made of it; `closeness` says how near that is."""

    arm: str
    attack: str
    victim: str
    text: str
    guess: str
    closeness: str


@dataclass(frozen=True)
class Attacker:
    """What an attack is called, is, knows and was set to."""

    label: str
    name: str
    knows: str
    settings: str


def results(record: RunRecord, judge: Judge) -> list[Results]:
    """Return the table of attacks by arms."""
    columns = judge.columns(_every(record))
    return [
        Results(
            arm.name,
            _model(arm),
            _accuracy(arm, judge),
            cost(arm.client_cost),
            tuple(_result(arm, attack, judge, columns) for attack in arm.attacks),
        )
        for arm in record.arms
    ]


def _every(record: RunRecord) -> list[AttackRecord]:
    return [attack for arm in record.arms for attack in arm.attacks]


def readings(record: RunRecord, judge: Judge) -> list[Reading]:
    """Return every client's text beside each attack's guess of it."""
    return [
        _reading_of(arm, attack, victim, item, judge)
        for arm in record.arms
        for attack in arm.attacks
        for victim in attack.victims
        for item in victim.scores
        if item.text is not None
    ]


def _reading_of(arm: ArmRecord, attack: AttackRecord, victim: VictimRecord, item: ItemScore, judge: Judge) -> Reading:
    guess = judge.success.decides(item.values)[0].verdict if judge.success.has_succeeded(item) else item.guess or ""
    goal = judge.success.goal(item.values)
    closeness = f"{goal.title} {goal.format(item.values[goal.name])}"
    return Reading(arm.name, attack.label, f"round {victim.round}, {victim.who}", item.text or "", guess, closeness)


def diagnoses(record: RunRecord, judge: Judge) -> list[tuple[str, list[Diagnosis]]]:
    """Return (arm, rows) for every arm with at least one search that ended."""
    by_arm = [
        (arm.name, [_diagnosis(attack, v, judge) for attack in arm.attacks for v in attack.victims if not v.failure])
        for arm in record.arms
    ]
    return [(name, rows) for name, rows in by_arm if rows]


def attackers(record: RunRecord) -> list[Attacker]:
    """Return every attack once, in order of appearance; one whose settings differ between arms appears for each."""
    seen: dict[Attacker, None] = {}
    for arm in record.arms:
        for attack in arm.attacks:
            settings = ", ".join(f"{key} = {value}" for key, value in attack.settings.items())
            seen[Attacker(attack.label, attack.name, knowledge(attack), settings or "none")] = None
    return list(seen)


def _result(arm: ArmRecord, attack: AttackRecord, judge: Judge, columns: Sequence[Column]) -> Result:
    summary = judge.summary(attack)
    count = judge.count(attack)
    if summary is None or not has_result(attack):
        reasons = dict.fromkeys(victim.failure for victim in attack.victims if victim.failure)
        return _no_result(arm, attack, judge, f"failed: {'; '.join(reasons)}" if reasons else "no victim was attacked")
    return Result(
        attack=attack.label,
        is_control=judge.is_control(arm, attack),
        n=count.victims,
        recovered=count.in_words,
        success=estimate(summary.success, 100, 0, "%"),
        figures=tuple(figure_of(summary, column) for column in columns),
        seconds=duration(sum(victim.seconds for victim in attack.victims) / len(attack.victims)),
        reason="",
        ceiling=ceiling(attack, judge),
    )


def _no_result(arm: ArmRecord, attack: AttackRecord, judge: Judge, reason: str) -> Result:
    return Result(
        attack=attack.label,
        is_control=judge.is_control(arm, attack),
        n=len(attack.victims),
        recovered=NOTHING,
        success=Estimate(NOTHING),
        figures=(),
        seconds=NOTHING,
        reason=reason,
        ceiling=ceiling(attack, judge),
    )


def ceiling(attack: AttackRecord, judge: Judge) -> str:
    """Return how far the ideal attacker comes on the same updates, for people; empty where nobody asked it."""
    found = reach([victim.ceiling for victim in attack.victims], judge.success)
    return "" if found is None else found.told


def _model(arm: ArmRecord) -> str:
    return f"{arm.attacked_model} model, {arm.parameters:,} parameters"


def _accuracy(arm: ArmRecord, judge: Judge) -> str:
    evaluated = [entry for entry in arm.rounds if entry.utilities(judge.declared)]
    if not evaluated:
        return "accuracy not evaluated"
    last = evaluated[-1]
    told = " and ".join(f"{own.name} {own.told}" for own in last.utilities(judge.declared)[::-1])
    return f"test {told} after round {last.round}"


def _diagnosis(attack: AttackRecord, victim: VictimRecord, judge: Judge) -> Diagnosis:
    return Diagnosis(
        attack=attack.label,
        victim=f"round {victim.round}, {victim.who}",
        objective=_scientific(victim.objective),
        at_truth=_scientific(victim.objective_at_truth),
        iterations=f"{victim.iterations:,} (best at {victim.best_iteration:,})",
        stopped=victim.stopped,
        reading=_reading(victim, judge),
        notes=(*victim.notes, *(f"{name}: {figure:.1%}" for name, figure in victim.found.items())),
    )


def _reading(victim: VictimRecord, judge: Judge) -> str:
    """How many examples were recovered, and why not the others."""
    recovered = judge.recovered(victim)
    if victim.examples and recovered == victim.examples:
        return "recovered"
    return "; ".join((f"{recovered} of {victim.examples} recovered", *victim.why))
