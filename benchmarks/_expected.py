"""Tables of what a scenario expects, for pages: ``<!-- expected: NAME: METRIC, METRIC: PART OF AN ARM'S NAME -->``.

The name is that of the scenario's file. Without metrics, or a part of a name, the table shows all.
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
from fedsim.metrics.statistics import wilson
from fedsim.scenario.expectations import Expected, ExpectedFigure

SCENARIOS = ROOT / "scenarios"


def as_tables(name: str, chosen: str = "", text: str = "", folder: Path = SCENARIOS) -> str:
    """Return Markdown: what the arms of a scenario expect, then what its attacks and other questions expect.

    Args:
        name: of the scenario's file.
        chosen: metrics, with commas between; all if empty.
        text: a part of the arms' names; all if empty.
        folder: of scenarios.

    Raises:
        FedsimError: there is no such scenario, metric or arm, or it expects nothing.
    """
    file = folder / f"{name}.toml"
    if not file.is_file():
        known = nearest(name, [other.stem for other in folder.glob("*.toml")])
        raise FedsimError(f"there is no scenario '{name}'.{known}")
    figures = Expected.model_validate(tomllib.loads(file.read_text(encoding="utf-8")).get("expected", {})).figures
    if not figures:
        raise FedsimError(f"scenario '{name}' has no figures in its table [expected].")
    figures = _chosen(figures, name, [word for word in re.split(r",\s*", chosen) if word], text)
    metrics = every_metric()
    parts = [[figure for figure in figures if bool(figure.attack) is by_attack] for by_attack in (False, True)]
    return "\n\n".join([*(_table(part, metrics) for part in parts if part), _origin(name)])


def _chosen(figures: Sequence[ExpectedFigure], name: str, metrics: Sequence[str], text: str) -> list[ExpectedFigure]:
    """Return the figures of some metrics and of the arms whose names contain a text."""
    expected = {figure.metric for figure in figures}
    for metric in metrics:
        if metric not in expected:
            raise FedsimError(f"scenario '{name}' expects no '{metric}'.{nearest(metric, expected)}")
    arms = list(dict.fromkeys(figure.arm for figure in figures))
    if not any(text in arm for arm in arms):
        raise FedsimError(f"scenario '{name}' expects nothing of an arm '{text}'. Arms: {'; '.join(arms)}")
    return [figure for figure in figures if text in figure.arm and (not metrics or figure.metric in metrics)]


def _table(figures: Sequence[ExpectedFigure], metrics: dict[str, Metric]) -> str:
    """Return a line for each arm and attack and a column for each metric; of one metric, arms against attacks."""
    columns = list(dict.fromkeys(figure.metric for figure in figures))
    lines = list(dict.fromkeys((figure.arm, figure.attack) for figure in figures))
    arms, attacks = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    values = {(figure.arm, figure.attack, figure.metric): figure for figure in figures}

    def cell(arm: str, attack: str, column: str) -> str:
        return _cell(values.get((arm, attack, column)), column, metrics)

    titles = [_title(column, metrics) for column in columns]
    if len(columns) == 1 and len(arms) >= len(attacks) > 1:
        rows = [[titles[0], *attacks], *([arm, *(cell(arm, attack, columns[0]) for attack in attacks)] for arm in arms)]
    elif len(columns) == 1 and len(attacks) > len(arms) > 1:
        rows = [[titles[0], *arms], *([attack, *(cell(arm, attack, columns[0]) for arm in arms)] for attack in attacks)]
    else:
        keys = [("arm", 0)] * (len(arms) > 1 or not any(attacks)) + [("attack", 1)] * any(attacks)
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
    return column if metric is None else f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def _cell(figure: ExpectedFigure | None, column: str, metrics: dict[str, Metric]) -> str:
    """Return a value; of a count, also Wilson's interval where one of n units is tolerated, else what is tolerated."""
    metric = _metric(column, metrics)
    if figure is None:
        return ""
    if metric is None or metric.form == "number":
        return f"{figure.value:.3g}"
    share = f"{100 * figure.value:.3g} %"
    if not metric.counted or not figure.tolerance:
        return share
    units = round(1 / figure.tolerance)
    if round(1 / units, 4) != figure.tolerance:
        return f"{share} ± {100 * figure.tolerance:.2g}"
    interval = wilson(min(figure.value * units, units), units)
    return f"{share} [{100 * (interval.low or 0):.0f}, {100 * (interval.high or 0):.0f}]"


def _origin(name: str) -> str:
    return (
        f"*`fedsim run scenarios/{name}.toml --check` gives these figures again, each within the tolerance that the "
        "file states, which also stands behind ±; in brackets 95 % intervals.*"
    )


def _escaped(cells: Sequence[str]) -> Iterator[str]:
    return (cell.replace("|", "\\|") for cell in cells)
