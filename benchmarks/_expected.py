"""Tables of what a scenario expects, for pages: ``<!-- expected: NAME -->``, by the name of its file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks._results import ROOT
from fedsim.core.errors import FedsimError, nearest
from fedsim.core.metric import Metric
from fedsim.core.registry import every_metric
from fedsim.metrics.statistics import wilson
from fedsim.scenario.expectations import Expected, ExpectedFigure

SCENARIOS = ROOT / "scenarios"


def as_tables(name: str, folder: Path = SCENARIOS) -> str:
    """Return Markdown: what the arms of a scenario expect, then what its attacks and other questions expect.

    Raises:
        FedsimError: there is no such scenario, or it expects nothing.
    """
    file = folder / f"{name}.toml"
    if not file.is_file():
        known = nearest(name, [other.stem for other in folder.glob("*.toml")])
        raise FedsimError(f"there is no scenario '{name}'.{known}")
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    figures = Expected.model_validate(tables.get("expected", {})).figures
    if not figures:
        raise FedsimError(f"scenario '{name}' has no figures in its table [expected].")
    metrics = every_metric()
    parts = [[figure for figure in figures if bool(figure.attack) is by_attack] for by_attack in (False, True)]
    return "\n\n".join([*(_table(part, metrics) for part in parts if part), _origin(name, tables)])


def _table(figures: Sequence[ExpectedFigure], metrics: dict[str, Metric]) -> str:
    """Return a line for each arm and attack, and a column for each metric."""
    columns = list(dict.fromkeys(figure.metric for figure in figures))
    lines = list(dict.fromkeys((figure.arm, figure.attack) for figure in figures))
    values = {(figure.arm, figure.attack, figure.metric): figure for figure in figures}
    has_attacks = any(attack for _, attack in lines)
    heads = ["arm", *(["attack"] if has_attacks else []), *(_title(column, metrics) for column in columns)]
    body = [
        [arm, *([attack] if has_attacks else []),
         *(_cell(values.get((arm, attack, column)), column, metrics) for column in columns)]
        for arm, attack in lines
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *map(_escaped, body)))


def _metric(column: str, metrics: dict[str, Metric]) -> Metric | None:
    return metrics.get(column) or next((metric for metric in metrics.values() if column in metric.statistics), None)


def _title(column: str, metrics: dict[str, Metric]) -> str:
    metric = _metric(column, metrics)
    return column if metric is None else f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def _cell(figure: ExpectedFigure | None, column: str, metrics: dict[str, Metric]) -> str:
    """Return a value; with Wilson's interval where it counts n units, since `fedsim expect` then tolerates one of n."""
    metric = _metric(column, metrics)
    if figure is None:
        return ""
    if metric is None or metric.form == "number":
        return f"{figure.value:.3g}"
    if not metric.counted or not figure.tolerance:
        return f"{100 * figure.value:.3g} %"
    units = round(1 / figure.tolerance)
    share = wilson(round(figure.value * units), units)
    return f"{100 * figure.value:.3g} % [{100 * (share.low or 0):.0f}, {100 * (share.high or 0):.0f}]"


def _origin(name: str, tables: dict[str, Any]) -> str:
    victims = tables.get("threat", {}).get("victims")
    counted = f" {victims} updates an arm are attacked." if victims else ""
    return (
        f"*`fedsim run scenarios/{name}.toml --check` gives these figures again, each within the tolerance that the "
        f"file states; in brackets 95 % intervals.{counted}*"
    )


def _escaped(cells: Sequence[str]) -> Iterator[str]:
    return (cell.replace("|", "\\|") for cell in cells)
