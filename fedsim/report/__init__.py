"""One self-contained page about a run: what the attacks recovered, how sure that is, and how to run it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedsim.core.glossary import TERMS
from fedsim.core.plain import csv_table, printable
from fedsim.record import RunRecord
from fedsim.record.finding_rows import FINDING_COLUMNS, finding_rows
from fedsim.record.store import RunFolder, read_record
from fedsim.report import ceilings, figures, look, tables, verdict, wall
from fedsim.report.banners import banners
from fedsim.report.brief import write_brief

__all__ = ["build"]


def build(run_dir: Path) -> Path:
    """Write the report of a run beside its record.

    Reads `record.json` and, when it is there, `arrays.npz`. Writes `figures/` (each picture as PNG, its data as
    CSV), `scores.csv`, where more was asked than attacks on updates `findings.csv`, and last `report.html`, every file
    whole or not at all. Nothing in it refers to another file or to the network.

    Args:
        run_dir: folder of the run.

    Returns:
        The path of `report.html`.

    Raises:
        FedsimError: the record is missing or does not follow the schema.
    """
    record = read_record(run_dir)
    judge = verdict.Judge.of(record)
    arrays = RunFolder(run_dir).read_arrays()
    walls = wall.walls(record, arrays, judge)
    curves = figures.attack_curves(record)
    exceedance = figures.exceedance(record, judge)
    utility = figures.utility(record, judge)
    epsilons = figures.epsilons(ceilings.marks(record, arrays, judge))
    rocs = figures.rocs(record)
    ownerships = tables.ownerships(record)
    ownership = figures.ownership(ownerships)
    attendances = tables.attendances(record)
    participation = figures.participation(attendances)
    sheets = [figures.wall_sheet(pictures, number) for number, pictures in enumerate(walls, 1)]
    folder = RunFolder(run_dir)
    for picture in (*curves, *exceedance, *ownership, *participation, *utility, *epsilons, *rocs, *sheets):
        folder.write(f"figures/{picture.name}.png", picture.png)
        folder.write(f"figures/{picture.name}.csv", csv_table(picture.columns, picture.rows))
    folder.write("scores.csv", csv_table(tables.score_columns(judge), tables.scores(record, judge)))
    if any(arm.findings for arm in record.arms):
        rows = [tuple(row.values()) for row in finding_rows(record)]
        folder.write("findings.csv", csv_table(tuple(FINDING_COLUMNS), rows))
    page = _page(
        record,
        judge,
        walls=walls,
        sheets=sheets,
        curves=curves,
        exceedance=exceedance,
        ownerships=ownerships,
        ownership=ownership,
        attendances=attendances,
        participation=participation,
        utility=utility,
        epsilons=epsilons,
        rocs=rocs,
    )
    folder.write("report.html", printable(page).encode())
    return run_dir / "report.html"


def _page(record: RunRecord, judge: verdict.Judge, **pictures: Any) -> str:
    attacks = [attack for arm in record.arms for attack in arm.attacks]
    found = [
        *verdict.sentences(record, judge),
        *tables.finding_sentences(record),
    ]
    return look.render(
        "fedsim.report",
        "template.html.j2",
        record=record,
        title=str(record.scenario.get("title", "Untitled run")),
        description=str(record.scenario.get("description", "")),
        scenario=json.dumps(record.scenario, indent=2, ensure_ascii=False),
        judge=judge,
        banners=banners(record, judge),
        brief=write_brief(record),
        leaks=any(own.recovered for own in found),
        sentences=found,
        attackers=tables.attackers(record),
        columns=judge.columns(attacks),
        ceilings=any(victim.ceiling for attack in attacks for victim in attack.victims),
        results=tables.results(record, judge),
        diagnoses=tables.diagnoses(record, judge),
        answers=tables.answers(record),
        own_tables=tables.own_tables(record, judge),
        readings=tables.readings(record, judge),
        rule=judge.rule(*attacks),
        noun=judge.deciding(*attacks).noun,
        left_out=tables.list_failures(record),
        guarantees=[(arm.name, own) for arm in record.arms for own in arm.guarantees],
        most=wall.MOST,
        has_public=any(own.has_public for own in pictures["walls"]),
        glossary=TERMS,
        **pictures,
    )
