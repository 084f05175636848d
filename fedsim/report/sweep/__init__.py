"""Report of a sweep, a single self-contained page: cost and protection of each defense setting, with uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fedsim.core.glossary import TERMS
from fedsim.core.sanitize import csv_table, drop_empty_columns, printable
from fedsim.record.store import RunFolder
from fedsim.report import figures
from fedsim.report.document import (
    Block,
    Card,
    Cards,
    Code,
    Definitions,
    Document,
    Download,
    Figures,
    Fold,
    ImageGrid,
    ImageGrids,
    Picture,
    Section,
    Statement,
    Statements,
    Table,
    TableRow,
    note,
    paragraph,
)
from fedsim.report.document.html import to_html
from fedsim.report.document.markdown import to_markdown
from fedsim.report.image_grid import MOST, PUBLIC, TICKS, has_public
from fedsim.report.sweep import curves, guarantees, health, pareto, pictures, sensitivity, tables, threat, verdict
from fedsim.report.sweep.findings import findings_tables
from fedsim.report.sweep.gathered import SweepRecords, gather
from fedsim.report.sweep.points import Point, points
from fedsim.report.sweep.reproduce import reproduce
from fedsim.report.tables.figures import with_noun

__all__ = ["build"]

_MOST_PROBLEMS = 20  # listed in the summary


def build(path: Path) -> Path:
    """Write the report of a sweep, or of a single run, into its folder.

    Writes `figures/` (each picture as PNG and SVG, its data as CSV), `table.csv` in `figures/`, `report.md` and finally
    `report.html`; every write is atomic. The page refers to no other file and to no network address.

    Returns:
        The path of `report.html`.

    Raises:
        FedsimError: the folder holds neither a sweep nor a run, or cannot be written.
    """
    sweep = gather(path)
    settings = points(sweep)
    numbers = csv_table(*drop_empty_columns(tables.columns(sweep), tables.rows(sweep, settings)))
    verdicts, table = verdict.verdicts(sweep, settings), tables.settings_table(sweep, settings)
    wall = pictures.wall_of(sweep, settings) if sweep.seeds else None
    sheets = [figures.wall_sheet(wall, 1)] if wall else []
    page = _document(sweep, settings, wall, verdicts=verdicts, table=table, numbers=numbers)
    folder = RunFolder(path)
    folder.write("figures/table.csv", numbers)
    for picture in (*page.pictures, *sheets):
        _write(folder, picture)
    folder.write("report.md", printable(to_markdown(_summary(sweep, page, verdicts, table))).encode())
    folder.write("report.html", to_html(page).encode())
    return path / "report.html"


def _write(folder: RunFolder, picture: Picture) -> None:
    folder.write(f"figures/{picture.name}.png", picture.png)
    folder.write(f"figures/{picture.name}.svg", picture.svg)
    folder.write(f"figures/{picture.name}.csv", csv_table(picture.columns, picture.rows))


def _document(
    sweep: SweepRecords,
    settings: Sequence[Point],
    wall: ImageGrid | None,
    *,
    verdicts: Sequence[Statement],
    table: Table,
    numbers: bytes,
) -> Document:
    blind = pictures.blind(sweep, settings)
    sections = (
        Section("Verdict", tuple(_verdict(sweep, verdicts))),
        Section("Attackers and their knowledge", tuple(_threat(sweep)), "threat"),
        Section("What protection costs", tuple(_pareto(sweep, pareto.draw(settings, blind))), "pareto"),
        Section("All settings", tuple(_settings(sweep, table, numbers)), "table"),
        Section("How many examples are at least this good", tuple(_exceedance(sweep, settings)), "exceedance"),
        Section("Members at every rate of false alarms", tuple(_membership(curves.rocs(settings))), "membership"),
        Section("Originals and reconstructions", tuple(_wall(sweep, wall)), "wall"),
        Section("Epsilon against attacks", tuple(_epsilon(sweep, settings, blind)), "epsilon"),
        *_questions(sweep),
        Section("Did the attacks work?", tuple(_health(sweep, settings)), "health"),
        Section("How it follows each knob", tuple(_sensitivity(sensitivity.draw(settings))), "sensitivity"),
        Section("Cost and time", tuple(_cost(settings)), "cost"),
        Section("Left out, and why", (_left_out(sweep),), "failures"),
        Section(
            "Make it again",
            (*reproduce(sweep), Fold("What the words mean", (Definitions.of(TERMS),), place="words")),
            "reproduce",
        ),
    )
    counts = (
        f"{sweep.runs} of {sweep.planned_runs} runs · {len(sweep.settings)} settings · seeds {sweep.seeds_in_words}"
    )
    return Document(
        title=sweep.title,
        kicker=f"fedsim report of a sweep · {counts}",
        lead=str(sweep.scenario.get("description") or ""),
        banners=tuple(verdict.banners(sweep, settings)),
        sections=tuple(section for section in sections if section.blocks),
        footer="Made by fedsim. Attacks give lower bounds on leakage: a failed attack is no guarantee.",
    )


def _summary(sweep: SweepRecords, page: Document, verdicts: Sequence[Statement], table: Table) -> Document:
    """Return a short document for logs of continuous integration: verdict, table and missing runs."""
    missing = [paragraph(f"{name}: {why}") for name, why in sweep.problems[:_MOST_PROBLEMS]]
    if len(sweep.problems) > _MOST_PROBLEMS:
        missing.append(paragraph(f"and {len(sweep.problems) - _MOST_PROBLEMS} more"))
    left_out = [Cards((Card("Left out", tuple(missing)),))] if missing else []
    return replace(page, opening=(Statements(tuple(verdicts)), tables.shorten_table(table), *left_out), sections=())


def _verdict(sweep: SweepRecords, verdicts: Sequence[Statement]) -> Iterator[Block]:
    if not verdicts:
        yield paragraph("No run has a usable record, so nothing can be said about privacy.")
        return
    yield Statements(tuple(verdicts))
    if sweep.policy.is_empty:
        example = Code("[policy] max_recovered = 0.05, max_accuracy_loss = 0.02")
        first, last = "Set the allowed values in the scenario, for example ", ", and give the same command again: "
        yield note(first, example, f"{last}nothing is computed twice.")
    yield note(
        "The attack counted is the strongest tried on a setting, chosen on the same images "
        f"that it is judged on, which favours the attacker. Recovered means: {_rules(sweep)}. "
        "An attack that was granted the dropout masks is a control and does not count."
    )


def _threat(sweep: SweepRecords) -> Iterator[Block]:
    threats, granted = threat.threats(sweep), threat.assumptions(sweep)
    yield threats if threats.cards else paragraph("None was recorded.")
    if granted.rows:
        yield granted


def _pareto(sweep: SweepRecords, charts: Sequence[Picture]) -> Iterator[Block]:
    if not charts:
        yield paragraph("No setting has both a utility and an attack.")
        return
    yield paragraph(
        f"Right is more useful, down is less success. Bars are {_confidence(sweep)} intervals; "
        "the line joins the Pareto-optimal settings by their estimates; grey: another setting "
        "is at least as good in both and better beyond the intervals in one. The star is "
        "undefended, the dotted line is a guess without any update. The panels compare "
        "attackers of different strength and knowledge."
    )
    yield Figures(tuple(charts), is_wide=True)


def _settings(sweep: SweepRecords, table: Table, numbers: bytes) -> Iterator[Block]:
    if not table.rows:
        yield paragraph("No results to show.")
        return
    yield paragraph(
        f"Values are followed by their {_confidence(sweep)} interval. Utility is measured on "
        "the test set. Its loss is relative to the undefended control, paired by seed; p is "
        "about the difference in attack success, paired by victim, after Holm. Press a heading "
        "to sort."
    )
    yield Download("settings.csv", "Download as CSV", numbers)
    yield table
    meanings = [(name, paragraph(meaning)) for name, meaning in tables.columns(sweep).items() if meaning]
    yield Fold("Columns of the CSV", (Definitions(tuple(meanings)),))
    made = (
        "Images share the fate of their update, updates the weights of their seed. Success rates count every update "
        "alike and have the wider of two intervals: Wilson's at the number of updates, and a bootstrap that draws "
        "seeds, and updates within each. Utility has Student's interval over seeds. Settings are compared with the "
        "undefended control that shares most with them, on the same victims and seeds; p comes from a paired "
        "sign-flip test. An update on which an attack failed is in no rate: a failure is no evidence."
    )
    yield Fold("How these numbers are made", (paragraph(made),))


def _exceedance(sweep: SweepRecords, settings: Sequence[Point]) -> Iterator[Block]:
    charts = curves.exceedance(sweep, settings)
    if not charts:
        yield paragraph("No attack has a distribution to show.")
        return
    yield paragraph(
        "Means hide the worst case. Each curve gives the share of examples above t under the setting's strongest "
        "attack; black is undefended."
    )
    yield Figures(tuple(charts), is_wide=True)
    yield from tables.thresholds(sweep, settings)


def _membership(charts: Sequence[Picture]) -> Iterator[Block]:
    if charts:
        yield paragraph(
            "The best membership attack of each setting, averaged over seeds, on logarithmic axes: an attacker that is "
            "sure of a few is a threat. Left of the dotted line no rate can be seen with so few others. Scores that "
            "are calibrated per example look better on average than for the examples they are meant for."
        )
        yield Figures(tuple(charts))


def _wall(sweep: SweepRecords, wall: ImageGrid | None) -> Iterator[Block]:
    if wall is None:
        yield paragraph("No pictures were stored.")
        return
    yield paragraph(
        "The same images in every row, the strongest attack of each setting; under each guess "
        f"its distance. Framed and ticked by this rule: {_rules(sweep)}. {TICKS} The choice is "
        "fixed: the rows are the undefended controls and, of every family, the settings with "
        f"most, median and least success; the images are all up to {MOST}, of more the images "
        "at percentiles 0, 25, 50, 75 and 100 of the scores in the first row."
    )
    yield ImageGrids((wall,), "Hide the originals, to judge the guesses alone")
    if has_public([wall]):
        yield note(PUBLIC)


def _epsilon(sweep: SweepRecords, settings: Sequence[Point], blind: dict[str, float]) -> Iterator[Block]:
    marks, floors = guarantees.marks(sweep, settings, blind), guarantees.floors(settings)
    if marks:
        yield paragraph(
            "Attack success, and the upper bound set by epsilon (black bars): for "
            "reconstructions exp(ε) κ + δ, with κ the success of a guess without the update; "
            "for membership exp(ε) FPR + δ, or its mirror. The gap is room for stronger "
            "attacks."
        )
        yield Figures(tuple(figures.epsilons(marks)))
        yield guarantees.marks_table(marks)
    if floors:
        yield paragraph(
            "Lower bounds on epsilon from the membership attacks: under a smaller epsilon they "
            "would have found fewer members, at 95% confidence."
        )
        yield guarantees.floors_table(floors)


def _questions(sweep: SweepRecords) -> Iterator[Section]:
    for question, table in findings_tables(sweep):
        text = (
            f"{question.summary} {question.method} Each value is followed by its "
            f"{_confidence(sweep)} interval: for several seeds Student's interval of their "
            "mean, for a single seed its own interval."
        )
        yield Section(question.title, (paragraph(text), table), f"question-{question.name}")


def _health(sweep: SweepRecords, settings: Sequence[Point]) -> Iterator[Block]:
    table = health.health(sweep)
    if not table.rows:
        yield paragraph("No attack on images was tried.")
        return
    yield paragraph(
        "An attack that fails on the undefended control is no evidence for a defense. As low "
        "as the truth: the guess explains the update as well as the true batch does, up to 5%. "
        "Still falling: the best came in the last twentieth of the iterations, so more "
        "iterations might help."
    )
    yield table
    if charts := health.histories(sweep, settings):
        yield paragraph("Objective over iterations on the undefended control, a line a victim.")
        yield Figures(tuple(charts))
    yield Fold("Every attack on every setting", (tables.attack_table(sweep, settings),))


def _sensitivity(charts: Sequence[Picture]) -> Iterator[Block]:
    if charts:
        yield paragraph(
            "Every number that a family of settings varies, with the strongest attack and the utility over it."
        )
        yield Figures(tuple(charts), is_wide=True)


def _cost(settings: Sequence[Point]) -> Iterator[Block]:
    if not settings:
        yield paragraph("Nothing was measured.")
        return
    yield paragraph(
        "Wall time of one client's training in a round, mean over seeds (the run without its "
        "attacks, shadow models included), and of a single attack on a victim. Bytes up count "
        "the numbers in an update at 32 bits, without savings from a defense's encoding. "
        "Processor time and peak memory are measured on a client's round that the scorer "
        "repeats alone in its process, with programs and data in memory: use them to compare "
        "settings, not as the client's own cost. Runs that share a machine slow each other."
    )
    yield tables.costs(settings)


def _left_out(sweep: SweepRecords) -> Block:
    rows = [TableRow.of(f"run {name}", why) for name, why in sweep.problems]
    rows += [TableRow.of(f"{with_noun(count, 'client')} of rounds", why) for why, count in sweep.left_out.items()]
    if not rows:
        return paragraph("Nothing: every run has a record, and every client took part.")
    return Table.of("Left out", ("what", "why"), rows, is_sortable=False, layout="words")


def _rules(sweep: SweepRecords) -> str:
    """Return the success rules of all settings in words."""
    return "; ".join(sorted({f"of {setting.decides.noun}s, {setting.rule}" for setting in sweep.settings}))


def _confidence(sweep: SweepRecords) -> str:
    return f"{100 * sweep.judge.scoring.confidence:g}%"
