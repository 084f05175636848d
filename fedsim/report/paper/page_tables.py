"""Tables of a run's or sweep's page, by name, with their origin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.result_files import SWEEP
from fedsim.record import RunRecord
from fedsim.record.store import read_record
from fedsim.report.document import Table
from fedsim.report.sweep.findings import findings_tables
from fedsim.report.sweep.gathered import gather
from fedsim.report.sweep.points import points
from fedsim.report.sweep.tables import attack_table, costs, settings_table
from fedsim.report.tables.attacks import attacks_of, results
from fedsim.report.tables.findings import findings_table, questions
from fedsim.report.tables.guarantees import guarantees
from fedsim.report.tables.metric_tables import metric_tables
from fedsim.report.verdict import RunJudge


@dataclass(frozen=True)
class Origin:
    """Origin of a table.

    Attributes:
        title: title of the scenario.
        digest: hash of the scenario.
        confidence: confidence level of the intervals.
        missing: what an unfinished run or sweep lacks, as a sentence; empty if it is complete.
    """

    title: str
    digest: str
    confidence: float
    missing: str = ""


@dataclass(frozen=True)
class PageTables:
    """Tables with rows, by name: ``attacks``, ``settings``, a question's name, or the title in kebab case."""

    origin: Origin
    tables: Mapping[str, Table]

    def find(self, name: str) -> tuple[str, Table]:
        """Return name and table by the name or the title; the first table for an empty name.

        Raises:
            FedsimError: there is no such table, or no table at all.
        """
        if not self.tables:
            raise FedsimError("the results hold no table: no attack and no question has a finding.")
        for known, table in self.tables.items():
            if name.casefold() in ("", known.casefold(), table.title.casefold()):
                return known, table
        raise FedsimError(f"--table is '{name}', which the page does not have.{did_you_mean(name, self.tables)}")


def read_page_tables(folder: Path) -> PageTables:
    """Read the tables of the page of a sweep or run.

    Raises:
        FedsimError: the folder holds neither, or its record cannot be read.
    """
    if (folder / SWEEP).exists():
        return _of_sweep(folder)
    record = read_record(folder)
    judge = RunJudge.of(record)
    title = str(record.plan.get("title", "Untitled run"))
    missing = "" if record.status == "finished" else f"The run is {record.status}: arms or attacks may be missing."
    return PageTables(Origin(title, record.digest, judge.scoring.confidence, missing), _filled(_of_run(record, judge)))


def _of_run(record: RunRecord, judge: RunJudge) -> Iterator[tuple[str, Table]]:
    if attacks_of(record):
        yield "attacks", results(record, judge)
    for question in questions(record):
        yield question.name, findings_table(record, question)
    for table in metric_tables(record, judge):
        yield kebab(table.title), table
    yield "guarantees", guarantees(record)


def _of_sweep(folder: Path) -> PageTables:
    sweep = gather(folder)
    settings = points(sweep)
    named = [("settings", settings_table(sweep, settings)), ("attacks", attack_table(sweep, settings))]
    named += [(question.name, table) for question, table in findings_tables(sweep)]
    named += [("costs", costs(settings))] if settings else []
    missing = f"{len(sweep.problems)} of {sweep.planned_runs} runs have no record." if sweep.problems else ""
    return PageTables(Origin(sweep.title, sweep.digest, sweep.judge.scoring.confidence, missing), _filled(named))


def _filled(named: Iterator[tuple[str, Table]] | list[tuple[str, Table]]) -> dict[str, Table]:
    return {name: table for name, table in named if table.rows}


def kebab(title: str) -> str:
    """Return text in lower case, with hyphens for other characters than letters and digits."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))
