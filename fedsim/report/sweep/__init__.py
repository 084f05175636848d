"""One self-contained page about a sweep: which defense, at which setting, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.core.glossary import TERMS
from fedsim.core.plain import csv_table, printable
from fedsim.core.source import toml
from fedsim.document.blocks import data_address
from fedsim.record.store import make_folder, write_whole
from fedsim.report import figures, look, wall
from fedsim.report.drawing import Picture
from fedsim.report.sweep import (
    curves,
    findings,
    guarantees,
    health,
    markdown,
    pareto,
    pictures,
    reproduce,
    sensitivity,
    tables,
    threat,
    verdict,
)
from fedsim.report.sweep.gathered import Sweep, gather
from fedsim.report.sweep.points import FEW_FALSE_ALARMS, Point, points

__all__ = ["build"]


def build(path: Path) -> Path:
    """Write the report of a sweep into its folder, or of a single run as one of one.

    Writes `figures/` (each picture as PNG and SVG, its data as CSV), `table.csv` in `figures/`, `report.md` and last
    `report.html`, every file whole or not at all. Nothing in the page refers to another file or to the network.

    Returns:
        The path of `report.html`.

    Raises:
        FedsimError: the folder holds neither a sweep nor a run, or cannot be written.
    """
    sweep = gather(path)
    found = points(sweep)
    blind = pictures.blind(sweep, found)
    marks = guarantees.marks(sweep, found, blind)
    shown = pictures.wall_of(sweep, found) if sweep.seeds else None
    drawn = {
        "pareto": pareto.drawn(found, blind),
        "exceedance": curves.exceedance(sweep, found),
        "rocs": curves.rocs(found),
        "epsilons": figures.epsilons(marks),
        "histories": health.histories(sweep, found),
        "sensitivity": sensitivity.drawn(found),
        "sheets": [figures.wall_sheet(shown, 1)] if shown else [],
    }
    table = csv_table(tables.columns(sweep), tables.rows(sweep, found))
    banners, verdicts, lines = verdict.banners(sweep, found), verdict.verdicts(sweep, found), tables.lines(sweep, found)
    page = _page(sweep, found, drawn, table, banners=banners, verdicts=verdicts, lines=lines, marks=marks, shown=shown)
    _write(path, [picture for own in drawn.values() for picture in own], table)
    write_whole(path / "report.md", printable(markdown.summary(sweep, banners, verdicts, lines)).encode())
    write_whole(path / "report.html", printable(page).encode())
    return path / "report.html"


def _write(path: Path, drawn: Sequence[Picture], table: bytes) -> None:
    folder = make_folder(path / "figures")
    write_whole(folder / "table.csv", table)
    for picture in drawn:
        write_whole(folder / f"{picture.name}.png", picture.png)
        write_whole(folder / f"{picture.name}.svg", picture.svg)
        write_whole(folder / f"{picture.name}.csv", csv_table(picture.columns, picture.rows))


def _page(sweep: Sweep, found: Sequence[Point], drawn: dict[str, list[Picture]], table: bytes, **parts: Any) -> str:
    shown = parts.pop("shown")
    return look.render(
        "fedsim.report",
        "sweep/page.html.j2",
        sweep=sweep,
        glossary=TERMS,
        points=found,
        drawn=drawn,
        walls=[shown] if shown else [],
        most=wall.MOST,
        has_public=shown is not None and wall.has_public([shown]),
        table=data_address("text/csv", table),
        columns=tables.columns(sweep),
        headings=tables.headings(sweep, found),
        thresholds=tables.thresholds(sweep, found),
        by_attack=tables.by_attack(sweep, found),
        threats=threat.threats(sweep),
        assumptions=threat.assumptions(sweep),
        floors=guarantees.floors(found),
        odds=guarantees.odds,
        answers=findings.findings_tables(sweep),
        false_alarms=FEW_FALSE_ALARMS,
        rules=sorted({f"of {own.decides.noun}s, {own.rule}" for own in sweep.settings}),
        health=health.health(sweep),
        made=reproduce.environments(sweep),
        scenario=toml(sweep.scenario),
        **parts,
    )
