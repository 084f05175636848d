"""Tables of attacks on updates: results by arm, readings of texts, and search diagnoses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fedsim.judgement.evidence import reach
from fedsim.record import ArmRecord, AttackFinding, Interval, ItemScore, RunRecord, VictimRecord
from fedsim.report.document import Heading, Paragraph, RowGroup, Strong, Table, TableCell, TableRow, number, paragraph
from fedsim.report.tables.figures import cost, duration, figure, heading_of, scientific, success_cell
from fedsim.report.verdict import Column, Count, RunJudge, failed_on, join_words, knowledge


@dataclass(frozen=True)
class _Tried:
    """An attack that returned a guess."""

    arm: ArmRecord
    attack: AttackFinding
    success: Interval
    count: Count


_Cell = Callable[[_Tried], TableCell | str]


def attacks_of(record: RunRecord) -> list[AttackFinding]:
    """Return the attacks of all arms."""
    return [attack for arm in record.arms for attack in arm.attacks]


def has_ceilings(record: RunRecord) -> bool:
    """Return whether any victim has a result of the ideal attacker."""
    return any(victim.ceiling for attack in attacks_of(record) for victim in attack.victims)


def results(record: RunRecord, judge: RunJudge) -> Table:
    """Return the table of attacks by arm."""
    columns = _columns(record, judge)
    groups = (RowGroup(arm.name, tuple(_rows(arm, judge, columns)), _about(arm, judge)) for arm in record.arms)
    headings = (Heading("attack"), *(heading for heading, _ in columns))
    return Table("Attacks by arm", headings, tuple(groups), group_heading="arm")


def _columns(record: RunRecord, judge: RunJudge) -> list[tuple[Heading, _Cell]]:
    """Return the columns after the attack label: heading, and cell of an attack."""
    attacks = attacks_of(record)
    deciding = judge.deciding_metric(*attacks)
    columns: list[tuple[Heading, _Cell]] = [
        (number(f"{deciding.noun}s {judge.verdict(*attacks)}", keeps_interval=True), _success),
        (
            number(judge.verdict(*attacks), is_extra=True),
            lambda tried: f"{tried.count.recovered_examples} of {tried.count.examples}",
        ),
    ]
    for column in judge.columns(attacks):
        columns.append((heading_of(column), partial(_figure, column)))
    if has_ceilings(record):
        columns.append((Heading("ideal attacker"), lambda tried: _ceiling(tried.attack, judge)))
    columns.append((number("n"), _victims))
    columns.append((number("time a victim", is_extra=True), _seconds))
    return columns


def _rows(arm: ArmRecord, judge: RunJudge, columns: Sequence[tuple[Heading, _Cell]]) -> Iterator[TableRow]:
    for attack in arm.attacks:
        label = TableCell(attack.label, tags=("control",) if judge.is_control(arm, attack) else ())
        if attack.value is not None:
            tried = _Tried(arm, attack, attack.value, judge.count(attack))
            yield TableRow.of(label, *(cell(tried) for _, cell in columns))
        else:
            yield TableRow((label,), f"failed: {attack.failure}")


def _success(tried: _Tried) -> TableCell:
    success = success_cell(tried.success)
    return success if tried.arm.replay_matches else replace(success, tags=("truth unsure",))


def _figure(column: Column, tried: _Tried) -> TableCell:
    return figure(tried.attack.extra_metrics.get(column.name), column.metric)


def _victims(tried: _Tried) -> TableCell:
    failed = failed_on(tried.count.failed_victims, len(tried.attack.victims))
    return TableCell(f"{tried.count.victims}", notes=(failed,) if failed else ())


def _seconds(tried: _Tried) -> str:
    victims = tried.attack.victims
    return duration(sum(victim.seconds for victim in victims) / len(victims))


def _about(arm: ArmRecord, judge: RunJudge) -> str:
    """Return the attacked model, its test utility, and the cost of a client's round."""
    parts = [f"{arm.attacked_model} model, {arm.parameters:,} parameters", _utility(arm, judge), cost(arm.client_cost)]
    return "; ".join(filter(None, [*parts, "" if arm.attacks else "no attack was tried"]))


def _utility(arm: ArmRecord, judge: RunJudge) -> str:
    evaluated = [entry for entry in arm.rounds if entry.utilities(judge.metrics_by_name)]
    if not evaluated:
        return "accuracy not evaluated"
    last = evaluated[-1]
    figures = " and ".join(f"{utility.name} {utility.text}" for utility in last.utilities(judge.metrics_by_name)[::-1])
    return f"test {figures} after round {last.round}"


def _ceiling(attack: AttackFinding, judge: RunJudge) -> str:
    """Return the ideal attacker's result on the same updates as text; empty if it was not computed."""
    ideal = reach([victim.ceiling for victim in attack.victims], judge.success)
    return "" if ideal is None else ideal.text


def readings(record: RunRecord, judge: RunJudge) -> Table:
    """Return a table of every client's text and each attack's guess."""
    rows = [
        _reading(arm, attack, victim, item, judge)
        for arm in record.arms
        for attack in arm.attacks
        for victim in attack.victims
        for item in victim.scores
        if item.text is not None
    ]
    headings = ("Arm", "Attack", "Victim", "Client's example", "Recovered", "Closeness")
    return Table.of("What was read", headings, rows, is_sortable=False)


def _reading(arm: ArmRecord, attack: AttackFinding, victim: VictimRecord, item: ItemScore, judge: RunJudge) -> TableRow:
    guess = judge.success.level(item) or item.guess or ""
    goal = judge.success.goal(item.values)
    closeness = f"{goal.title} {goal.format(item.values[goal.name])}"
    return TableRow.of(arm.name, attack.label, _place(victim), item.text or "", guess, closeness)


def _place(victim: VictimRecord) -> str:
    return f"round {victim.round}, {victim.sender}"


def diagnoses(record: RunRecord, judge: RunJudge) -> list[tuple[str, Table]]:
    """Return (arm, table) of search outcomes, for each arm with a finished search."""
    tables: list[tuple[str, Table]] = []
    for arm in record.arms:
        rows = [_diagnosis(attack, v, judge) for attack in arm.attacks for v in attack.victims if not v.failure]
        if rows:
            numbers = map(number, ("objective at end", "at truth", "iterations"))
            headings = ("attack", "victim", *numbers, "stopped", "reading")
            tables.append((arm.name, Table.of(f"Diagnosis of {arm.name}", headings, rows, layout="long")))
    return tables


def _diagnosis(attack: AttackFinding, victim: VictimRecord, judge: RunJudge) -> TableRow:
    notes = (*victim.notes, *(f"{name}: {share:.1%}" for name, share in victim.extras.items()))
    return TableRow.of(
        attack.label,
        _place(victim),
        scientific(victim.objective),
        scientific(victim.objective_at_truth),
        f"{victim.iterations:,} (best at {victim.best_iteration:,})",
        victim.stopped,
        TableCell(_how_it_went(victim, judge), notes=notes),
    )


def _how_it_went(victim: VictimRecord, judge: RunJudge) -> str:
    """Return the number of recovered examples, and reasons for the rest."""
    recovered = judge.count_recovered(victim)
    levels = {judge.success.level(item) for item in victim.scores}
    if victim.examples and recovered == victim.examples:
        return join_words(sorted(levels))
    word = judge.success.verdict(next((item.values for item in victim.scores), {}))
    return "; ".join((f"{recovered} of {victim.examples} {word}", *victim.explanations))


def attackers(record: RunRecord) -> tuple[Paragraph, ...]:
    """Return the knowledge and settings of every attack; an attack with different settings is listed for each."""
    return tuple(dict.fromkeys(map(_attacker, attacks_of(record))))


def _attacker(attack: AttackFinding) -> Paragraph:
    settings = ", ".join(f"{key} = {_setting(value)}" for key, value in attack.settings.items()) or "none"
    name = "" if attack.method == attack.label else f" ({attack.method})"
    return paragraph(Strong(attack.label), f"{name} knows {knowledge(attack)}. Settings: {settings}")


def _setting(value: Any) -> str:
    """Return a setting as text; a method is shown by name with its settings in brackets."""
    match value:
        case {"name": str(name), **more}:
            settings = ", ".join(f"{key} {_setting(part)}" for key, part in more.items())
            return f"{name} ({settings})" if settings else name
        case [{}, *_]:
            return " + ".join(map(_setting, value))
        case _:
            return str(value)
