"""Single measured values in sentences and cells of pages, and the runs that gave them.

``<!-- value: EXPERIMENT: ROW: SETTING -->``, ``<!-- value: SCENARIO: ARM: ATTACK: METRIC -->`` and
``<!-- origin: EXPERIMENT or SCENARIO -->`` are followed by the rendered text and ``<!-- end -->``, in one line.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import _expected
from benchmarks._results import Result, describe_run, read
from benchmarks._rows import Row
from benchmarks._sources import changed_files
from fedsim.core.errors import FedsimError, did_you_mean

_VALUE = re.compile(r"(<!-- value: (?P<name>[\w-]+): (?P<part>[^\n]+?) -->)[^\n]*?<!-- end -->")
_ORIGIN = re.compile(r"(<!-- origin: (?P<name>[\w-]+) -->)[^\n]*?<!-- end -->")
CHANGED = " The code has changed since: "


def render(text: str, folder: Path) -> str:
    """Return a page's text with its single values and origins.

    Args:
        text: Markdown.
        folder: folder of results.

    Raises:
        FedsimError: there is no such result, row or expected figure.
    """
    text = _VALUE.sub(lambda match: f"{match[1]}{_value(match['name'], match['part'], folder)}<!-- end -->", text)
    return _ORIGIN.sub(lambda match: f"{match[1]}{_origin(match['name'], folder)}<!-- end -->", text)


def origin(result: Result, cell: str | None = None) -> str:
    """Return the command of a result, its date, commit and processor."""
    options = f"{' --full' if result.full else ''}{f' --seconds {result.seconds:g}' if result.seconds else ''}"
    options += f' --cells "{cell}"' if cell else ""
    command = f"python -m benchmarks {result.experiment}{options}"
    return f"`{command}`, {describe_run(result)}"


def staleness(result: Result) -> str:
    """Return a sentence if files of a result have changed; empty otherwise."""
    first, *others = changed_files(result.sources) or [""]
    return first and f"{CHANGED}{first}{f' and {len(others)} more files' if others else ''}."


def _value(name: str, part: str, folder: Path) -> str:
    if _is_scenario(name):
        arm, attack, metric = part.split(": ")
        return _expected.figure_cell(name, arm, attack, metric, _expected.SCENARIOS)[1]
    row, _, setting = part.rpartition(": ")
    rows = {(entry.name, entry.setting): entry for entry in read(name, folder).rows}
    if (row, setting) not in rows:
        known = did_you_mean(part, [": ".join(key) for key in rows])
        raise FedsimError(f"the results of '{name}' have no row '{part}'.{known}")
    return _format(rows[row, setting])


def _format(row: Row) -> str:
    """Return a value with its interval and number of units; a share in percent."""
    scale, unit = (100.0, " %") if row.unit == "share" else (1.0, f" {row.unit}")
    interval = "" if row.low is None or row.high is None else f" [{scale * row.low:.3g}, {scale * row.high:.3g}]"
    return f"{scale * row.value:.3g}{unit}{interval}{f', n = {row.n}' if row.n > 1 else ''}"


def _origin(name: str, folder: Path) -> str:
    if _is_scenario(name):
        return _expected.origin(name, _expected.SCENARIOS)
    result = read(name, folder)
    return f"{origin(result)}.{staleness(result)}"


def _is_scenario(name: str) -> bool:
    return (_expected.SCENARIOS / f"{name}.toml").is_file()
