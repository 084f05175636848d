"""Tables of what a scenario expects, for pages: ``<!-- expected: NAME: METRIC, METRIC: PART OF A NAME -->``.

The name is that of the scenario's file. The part is of the name of an arm or an attack. Without metrics, or a part
of a name, the tables show all.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks._results import ROOT
from fedsim.core.errors import FedsimError, nearest
from fedsim.core.metric import Metric
from fedsim.core.registry import every_metric
from fedsim.core.registry.discovery import discover
from fedsim.metrics.statistics import wilson
from fedsim.scenario.expectations import Expected, ExpectedFigure

SCENARIOS = ROOT / "scenarios"


def as_tables(name: str, chosen: str = "", text: str = "", folder: Path = SCENARIOS) -> str:
    """Return Markdown: what the arms of a scenario expect, then what its attacks and other questions expect.

    Args:
        name: of the scenario's file.
        chosen: metrics, with commas between; all if empty.
        text: a part of the name of arms or attacks; all if empty.
        folder: of scenarios.

    Raises:
        FedsimError: there is no such scenario, metric, arm or attack, or it expects nothing.
    """
    file = folder / f"{name}.toml"
    if not file.is_file():
        known = nearest(name, [other.stem for other in folder.glob("*.toml")])
        raise FedsimError(f"there is no scenario '{name}'.{known}")
    figures = Expected.model_validate(tomllib.loads(file.read_text(encoding="utf-8")).get("expected", {})).figures
    if not figures:
        raise FedsimError(f"scenario '{name}' has no figures in its table [expected].")
    discover("question")  # the metrics of questions stand in their files
    metrics = every_metric()
    counts = _counts(figures, metrics)
    figures = _chosen(figures, name, [word for word in re.split(r",\s*", chosen) if word], text)
    parts = [[figure for figure in figures if bool(figure.attack) is by_attack] for by_attack in (False, True)]
    tables = [_table(part, metrics, counts) for part in parts if part]
    return "\n\n".join([*tables, _origin(name, tables)])


def _chosen(figures: Sequence[ExpectedFigure], name: str, metrics: Sequence[str], text: str) -> list[ExpectedFigure]:
    """Return the figures of some metrics and of the arms or attacks whose names contain a text."""
    expected = {figure.metric for figure in figures}
    for metric in metrics:
        if metric not in expected:
            raise FedsimError(f"scenario '{name}' expects no '{metric}'.{nearest(metric, expected)}")
    named = [figure for figure in figures if text in figure.arm or text in figure.attack]
    if not named:
        arms = "; ".join(dict.fromkeys(figure.arm for figure in figures))
        raise FedsimError(f"scenario '{name}' expects nothing of an arm or attack '{text}'. Arms: {arms}")
    return [figure for figure in named if not metrics or figure.metric in metrics]


def _counts(figures: Sequence[ExpectedFigure], metrics: dict[str, Metric]) -> set[str]:
    """Return the metrics of which every figure may differ by one of n units, as `fedsim expect` writes for counts."""
    known = {column: _metric(column, metrics) for column in {figure.metric for figure in figures}}
    counted = {column for column, metric in known.items() if metric is not None and metric.counted}
    return counted - {figure.metric for figure in figures if _units(figure) is None}


def _units(figure: ExpectedFigure) -> int | None:
    """Return how many units a figure counts, if its tolerance is the share of one."""
    units = round(1 / figure.tolerance) if figure.tolerance else 0
    return units if units and round(1 / units, 4) == figure.tolerance else None


def _table(figures: Sequence[ExpectedFigure], metrics: dict[str, Metric], counts: set[str]) -> str:
    """Return a line for each arm and attack and a column for each metric; of one metric, arms against attacks."""
    columns = list(dict.fromkeys(figure.metric for figure in figures))
    lines = list(dict.fromkeys((figure.arm, figure.attack) for figure in figures))
    arms, attacks = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    values = {(figure.arm, figure.attack, figure.metric): figure for figure in figures}

    def cell(arm: str, attack: str, column: str) -> str:
        figure = values.get((arm, attack, column))
        return "" if figure is None else _cell(figure, _metric(column, metrics), column in counts)

    titles = [_title(column, metrics) for column in columns]
    if len(columns) == 1 and len(arms) > 1 and len(attacks) > 1:
        rows = [[*titles, *attacks], *([arm, *(cell(arm, attack, *columns) for attack in attacks)] for arm in arms)]
        rows = rows if len(arms) >= len(attacks) else [list(row) for row in zip(*rows, strict=True)]
    else:
        has_attacks = any(attacks)
        keys = [("arm", 0)] * (len(arms) > 1 or not has_attacks)
        keys += [("attack", 1)] * (has_attacks and (len(attacks) > 1 or len(arms) == 1))
        rows = [
            [*(head for head, _ in keys), *titles],
            *([*(line[key] for _, key in keys), *(cell(*line, column) for column in columns)] for line in lines),
        ]
    heads, *body = map(_escaped, rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(rows[0]), *body))


def _metric(column: str, metrics: dict[str, Metric]) -> Metric | None:
    return metrics.get(column) or next((metric for metric in metrics.values() if column in metric.statistics), None)


def _title(column: str, metrics: dict[str, Metric]) -> str:
    metric = _metric(column, metrics)
    if metric is None:
        return column
    return metric.title if metric.unit in ("", metric.title) else f"{metric.title}, {metric.unit}"


def _cell(figure: ExpectedFigure, metric: Metric | None, is_counted: bool) -> str:
    """Return a value; of a count, also Wilson's interval, or what is tolerated where nothing says of how many units."""
    if metric is None or metric.form == "number":
        return f"{figure.value:.3g}"
    share = f"{100 * figure.value:.3g} %"
    units = _units(figure) if is_counted else None
    if units:
        interval = wilson(min(figure.value * units, units), units)
        return f"{share} [{100 * (interval.low or 0):.0f}, {100 * (interval.high or 0):.0f}]"
    return f"{share} ± {100 * figure.tolerance:.2g}" if metric.counted and figure.tolerance else share


def _origin(name: str, tables: Sequence[str]) -> str:
    signs = {" % [": "in brackets 95 % intervals", "±": "behind ± that tolerance"}
    notes = [note for sign, note in signs.items() if any(sign in table for table in tables)]
    return (
        f"*`fedsim run scenarios/{name}.toml --check` gives these figures again, each within the tolerance that the "
        f"file states{'; ' * bool(notes)}{', '.join(notes)}.*"
    )


def _escaped(cells: Sequence[str]) -> Iterator[str]:
    return (cell.replace("|", "\\|") for cell in cells)
