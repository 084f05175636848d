"""Tables of what a scenario expects, for pages: ``<!-- expected: NAME: METRIC, METRIC: PATTERN -->``.

The name is that of the scenario's file. The pattern, a regular expression, occurs in the name of an arm or an attack.
Without metrics, or a pattern, the tables show all.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks._markdown import escape_cells, table
from benchmarks._results import ROOT, describe_run
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.metric import Metric
from fedsim.core.registry import every_metric
from fedsim.core.registry.discovery import discover
from fedsim.experiment.expectation import Expected, ExpectedFigure, Measurement, expected_file, read_expected

SCENARIOS = ROOT / "scenarios"


def as_tables(name: str, chosen: str = "", pattern: str = "", folder: Path = SCENARIOS) -> str:
    """Return Markdown: what the arms of a scenario expect, then what its attacks and other questions expect.

    Args:
        name: of the scenario's file.
        chosen: metrics, with commas between; all if empty.
        pattern: occurs in the name of an arm or an attack; all if empty.
        folder: of scenarios.

    Raises:
        FedsimError: there is no such scenario, metric, arm or attack, or it expects nothing.
    """
    scenario, expected = _read(name, folder)
    discover("question")  # the metrics of questions stand in their files
    metrics = every_metric()
    figures = _choose_figures(expected.figures, name, [word for word in re.split(r",\s*", chosen) if word], pattern)
    parts = [[figure for figure in figures if bool(figure.attack) is by_attack] for by_attack in (False, True)]
    tables = [_table(part, metrics) for part in parts if part]
    return "\n\n".join([*tables, _caption(_command(name, scenario), tables, expected.measured)])


def origin(name: str, folder: Path) -> str:
    """Return the command of a scenario, and the date, commit and processor of the run that gave its figures.

    Raises:
        FedsimError: there is no such scenario, or it expects nothing.
    """
    scenario, expected = _read(name, folder)
    return f"`{_command(name, scenario)}`{f', {describe_run(expected.measured)}' if expected.measured else ''}."


def figure_cell(name: str, arm: str, attack: str, metric: str, folder: Path = SCENARIOS) -> tuple[str, str]:
    """Return the title of a figure that a scenario expects, and its cell.

    Args:
        name: of the scenario's file.
        arm: of the scenario.
        attack: label of the attack or question; empty for a figure of the arm itself.
        metric: name of the metric.
        folder: of scenarios.

    Raises:
        FedsimError: there is no such scenario, or it does not expect this figure.
    """
    figures = _read(name, folder)[1].figures
    wanted = (arm, attack, metric)
    for figure in figures:
        if (figure.arm, figure.attack, figure.metric) == wanted:
            discover("question")
            metrics = every_metric()
            return _title(metric, metrics), _cell(figure, _metric(metric, metrics))
    known = [f"{figure.arm}: {figure.attack}: {figure.metric}" for figure in figures]
    raise FedsimError(f"scenario '{name}' expects no '{': '.join(wanted)}'.{did_you_mean(': '.join(wanted), known)}")


def _read(name: str, folder: Path) -> tuple[dict[str, Any], Expected]:
    """Return a scenario's tables, and its expected figures."""
    file = folder / f"{name}.toml"
    if not file.is_file():
        known = did_you_mean(name, [other.stem for other in folder.glob("*.toml")])
        raise FedsimError(f"unknown scenario '{name}'.{known}")
    scenario, expected = _parse(file)
    if not expected.figures:
        raise FedsimError(f"scenario '{name}' has no expected figures: no file {expected_file(file).name}.")
    return scenario, expected


@cache  # pages show hundreds of figures of the same files
def _parse(file: Path) -> tuple[dict[str, Any], Expected]:
    return tomllib.loads(file.read_text(encoding="utf-8")), read_expected(file)


def _choose_figures(
    figures: Sequence[ExpectedFigure], name: str, metrics: Sequence[str], pattern: str
) -> list[ExpectedFigure]:
    """Return the figures of some metrics and of the arms or attacks whose names match."""
    expected = {figure.metric for figure in figures}
    for metric in metrics:
        if metric not in expected:
            raise FedsimError(f"scenario '{name}' expects no '{metric}'.{did_you_mean(metric, expected)}")
    named = [figure for figure in figures if re.search(pattern, figure.arm) or re.search(pattern, figure.attack)]
    if not named:
        arms = "; ".join(dict.fromkeys(figure.arm for figure in figures))
        raise FedsimError(f"scenario '{name}' expects nothing of an arm or attack '{pattern}'. Arms: {arms}")
    return [figure for figure in named if not metrics or figure.metric in metrics]


def _table(figures: Sequence[ExpectedFigure], metrics: dict[str, Metric]) -> str:
    """Return a line for each arm and attack and a column for each metric; of one metric, arms against attacks."""
    columns = list(dict.fromkeys(figure.metric for figure in figures))
    lines = list(dict.fromkeys((figure.arm, figure.attack) for figure in figures))
    arms, attacks = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    values = {(figure.arm, figure.attack, figure.metric): figure for figure in figures}

    def cell(arm: str, attack: str, column: str) -> str:
        figure = values.get((arm, attack, column))
        return "" if figure is None else _cell(figure, _metric(column, metrics))

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
    heads, *body = map(escape_cells, rows)
    return table(heads, body)


def _metric(column: str, metrics: dict[str, Metric]) -> Metric | None:
    return metrics.get(column) or next((metric for metric in metrics.values() if column in metric.statistics), None)


def _title(column: str, metrics: dict[str, Metric]) -> str:
    metric = _metric(column, metrics)
    if metric is None:
        return column
    return metric.title if metric.unit in ("", metric.title) else f"{metric.title}, {metric.unit}"


def _cell(figure: ExpectedFigure, metric: Metric | None) -> str:
    """Return a value, in percent where it is a share, with its interval, or of a count with what is tolerated."""
    is_share = metric is not None and metric.form != "number"
    scale, form, unit = (100.0, ".0f", " %") if is_share else (1.0, ".3g", "")
    value = f"{scale * figure.value:.3g}{unit}"
    if figure.low is not None and figure.high is not None:
        return f"{value} [{scale * figure.low:{form}}, {scale * figure.high:{form}}]"
    is_count = metric is not None and metric.is_success_count and figure.tolerance
    return f"{value} ± {scale * figure.tolerance:.2g}" if is_count else value


def _command(name: str, scenario: Mapping[str, Any]) -> str:
    return f"fedsim {'sweep' if 'sweep' in scenario else 'run'} scenarios/{name}.toml"


def _caption(command: str, tables: Sequence[str], run: Measurement | None) -> str:
    signs = {" [": "in brackets 95 % intervals", "±": "behind ± that tolerance"}
    notes = [] if run is None else [f"measured {describe_run(run)}"]
    notes += [note for sign, note in signs.items() if any(sign in table for table in tables)]
    return (
        f"*`{command} --check` gives these figures again, each within the tolerance that the file states"
        f"{'; ' * bool(notes)}{', '.join(notes)}.*"
    )
