"""What stands on the screen when a run has ended: tables of results, guarantees, and what is in doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fedsim.record import (
    ArmRecord,
    AttackRecord,
    GuaranteeRecord,
    Interval,
    RunRecord,
    Summary,
)
from fedsim.report.brief import write_brief
from fedsim.report.tables.attacks import ceiling
from fedsim.report.tables.figures import Estimate
from fedsim.report.tables.findings import Answers, answers
from fedsim.report.verdict import Column, Judge, failed_on, has_guess

_ANY_WIDTH = 1_000  # columns
_FAILED = "failed"


def findings(record: RunRecord, console: Console) -> list[Table]:
    """Return a table for every question, with intervals where the console is wide enough."""
    return [
        _fitting(lambda every_interval, own=own: _findings(own, every_interval), console) for own in answers(record)
    ]


def _findings(own: Answers, every_interval: bool) -> Table:
    table = _table(own.question.title)
    headings = ("figure", "found", "chance", *(("p",) if own.has_p else ()), *own.headings, "n")
    _add_columns(table, headings, every_interval)
    for row in own.rows:
        role = f" ({row.role})" if row.role else ""
        if row.reason:
            table.add_row(row.group, f"{row.label}{role}", "failed", *("-",) * (len(headings) - 1))
            continue
        p = (row.p,) if own.has_p else ()
        value, *more = (_in_a_cell(one, every_interval) for one in (row.value, *row.more))
        table.add_row(row.group, f"{row.label}{role}", row.figure, value, row.chance, *p, *more, row.n)
    return table


def _in_a_cell(own: Estimate, every_interval: bool) -> str:
    return f"{own.value} [{own.interval}]" if own.interval and every_interval else own.value


def results(record: RunRecord, console: Console) -> Table:
    """Return the table of arms and attacks that ends a run: with every interval where the console is wide enough."""
    return _fitting(lambda every_interval: _results(record, every_interval), console)


def _fitting(make: Callable[[bool], Table], console: Console) -> Table:
    """Return a table with every interval if the console is wide enough for it, else one without most of them."""
    whole = make(True)
    wanted = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), whole).maximum
    return whole if wanted <= console.width else make(False)


def _results(record: RunRecord, every_interval: bool) -> Table:
    attacks = [attack for arm in record.arms for attack in arm.attacks]
    judge = Judge.of(record)
    columns, deciding = judge.columns(attacks), judge.deciding(*attacks)
    table = _table(str(record.scenario["title"]))
    ideal = any(victim.ceiling for attack in attacks for victim in attack.victims)
    last = ("n", "ideal attacker") if ideal else ("n",)
    _add_columns(table, (f"{deciding.noun}s {deciding.verdict}", *map(_heading, columns), *last), every_interval)
    for arm in record.arms:
        for attack in arm.attacks:
            summary = attack.summary
            cells = (_FAILED if attack.victims else "-", *("-",) * (len(columns) + 1))
            end = (ceiling(attack, judge),) if ideal else ()
            if summary is not None:
                unsure = "" if arm.replay_matches else " (truth unsure)"
                failed = failed_on(judge.count(attack).failed, len(attack.victims))
                rest = _cells(summary, columns, every_interval)
                n = f"{summary.success.n}{f' ({failed})' if failed else ''}"
                cells = (_percent(summary.success) + unsure, *rest, n)
            table.add_row(arm.name, attack.label, *cells, *end)
    return table


def _add_columns(table: Table, figures: Sequence[str], every_interval: bool) -> None:
    """Add the columns of arms, attacks and figures; narrow headings, where rich would break the cells instead."""
    table.add_column("arm")
    table.add_column("attack")
    for heading in figures:
        table.add_column(heading if every_interval else heading.replace(" ", "\n"), justify="right")


def _shown(interval: Interval, every_interval: bool) -> Interval:
    return interval if every_interval else interval.model_copy(update={"low": None, "high": None})


def _table(title: str) -> Table:
    """Return a table without vertical lines, which a narrow screen has no room for."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def _heading(column: Column) -> str:
    return f"{column.heading} ({column.metric.unit})" if column.metric.unit else column.heading


def _cells(summary: Summary, columns: Sequence[Column], every_interval: bool = True) -> Iterator[str]:
    for own in columns:
        interval, percent = summary.metrics.get(own.name), own.metric.form != "number"
        shown = interval and _shown(interval, every_interval)
        yield "-" if shown is None else _percent(shown) if percent else _number(shown, own.metric.digits)


def doubt_truth(record: RunRecord) -> list[str]:
    """Return a sentence for every arm whose truth may be wrong."""
    return [
        f"The truth of {arm.name} is unsure: replaying the clients gave another update than the one on the wire, so "
        "scores may compare with the wrong images. The model, a component or a defense draws numbers that do not "
        "depend on the seed, or keeps state between two calls."
        for arm in record.arms
        if arm.attacks and not arm.replay_matches
    ]


def own_tables(record: RunRecord) -> list[Table]:
    """Return the tables of their own that metrics ask for, as that against the composites that clients trained on."""
    attacks = [attack for arm in record.arms for attack in arm.attacks]
    judge = Judge.of(record)
    titles = dict.fromkeys(metric.table for metric in record.metrics if metric.table)
    return [_own_table(record, title, columns) for title in titles if (columns := judge.columns(attacks, title))]


def _own_table(record: RunRecord, title: str, columns: Sequence[Column]) -> Table:
    table = _table(title)
    for heading in ("arm", "attack", *map(_heading, columns)):
        table.add_column(heading, justify="left" if heading in ("arm", "attack") else "right")
    for arm in record.arms:
        for attack in arm.attacks:
            if attack.summary is not None and any(own.name in attack.summary.metrics for own in columns):
                table.add_row(arm.name, attack.label, *_cells(attack.summary, columns))
    return table


def summary_of(record: RunRecord, page: Path) -> dict[str, Any]:
    """Return what ended a run, for programs: the whole is in the record beside the page."""
    return {
        "title": record.scenario["title"],
        "status": record.status,
        "verdict": list(write_brief(record)),
        "report": str(page),
        "record": str(page.with_name("record.json")),
        "arms": [_arm(arm) for arm in record.arms],
    }


def _arm(arm: ArmRecord) -> dict[str, Any]:
    tested = next((own.tested for own in reversed(arm.rounds) if own.tested), {})
    return {
        "name": arm.name,
        "values": arm.values,
        "model_hash": arm.model_hash,
        "truth_is_sure": arm.replay_matches,
        "tested": tested,
        "attacks": [{**_outcome(own.label, own.summary), **_failures(own)} for own in arm.attacks],
        "findings": [own.model_dump(mode="json") for own in arm.findings],
        "guarantees": [own.model_dump(mode="json") for own in arm.guarantees],
    }


def _outcome(label: str, summary: BaseModel | None) -> dict[str, Any]:
    return {"label": label, **(summary.model_dump(mode="json") if summary is not None else {})}


def _failures(attack: AttackRecord) -> dict[str, int]:
    """Return on how many victims an attack failed, where it did on any."""
    failed = sum(not has_guess(victim) for victim in attack.victims)
    return {"failed": failed} if failed else {}


def guarantees(record: RunRecord) -> list[str]:
    """Return a line for every guarantee of every arm."""
    return [f"{arm.name}: {describe_guarantee(own)}" for arm in record.arms for own in arm.guarantees]


def describe_guarantee(own: GuaranteeRecord) -> str:
    """Return a guarantee with all that gives its epsilon meaning."""
    return (
        f"{own.source}: {own.figure}; unit: {own.neighbours}; {own.sampling}; {own.composition}; against {own.against}."
    )


def _percent(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:.0%}"
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def _number(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
