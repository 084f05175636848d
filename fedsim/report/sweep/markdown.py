"""The summary for logs of continuous integration: verdict, table and what is missing, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedsim.document import Banner
from fedsim.report.sweep.gathered import Sweep
from fedsim.report.sweep.tables import Line, headings
from fedsim.report.sweep.verdict import Verdict

_SHOWN = (0, 1, 2, 3, -6, -4)  # the first four, p and epsilon; between them stand figures of metrics
_MOST_PROBLEMS = 20


def summary(sweep: Sweep, banners: Sequence[Banner], verdicts: Sequence[Verdict], lines: Sequence[Line]) -> str:
    """Return the page in short."""
    parts = [f"# {_plain(sweep.title)}", f"{sweep.runs} of {sweep.planned} runs, seeds {_seeds(sweep)}."]
    parts += [f"**{_plain(banner.title)}.** {_plain(banner.text)}" for banner in banners]
    parts += map(_verdict, verdicts)
    if lines:
        parts.append(_table(sweep, lines))
    if sweep.problems:
        shown = [f"- {_plain(name)}: {_plain(why)}" for name, why in sweep.problems[:_MOST_PROBLEMS]]
        rest = len(sweep.problems) - _MOST_PROBLEMS
        parts.append("\n".join(["Left out:", "", *shown, *([f"- and {rest} more"] if rest > 0 else [])]))
    return "\n\n".join(parts) + "\n"


def _verdict(own: Verdict) -> str:
    text = f"Under {own.threat}: **{_plain(own.finding)}.** {_plain(own.text)} {own.caveat}".strip()
    checks = [f"- {_plain(f'{c.what}: {c.measured}, allowed {c.limit}: {c.light}')}" for c in own.checks]
    return "\n".join([text, *(["", *checks] if checks else [])])


def _table(sweep: Sweep, lines: Sequence[Line]) -> str:
    names = headings(sweep, [line.point for line in lines])
    first = ["setting", *(names[index] for index in _SHOWN), "notes"]
    rows = [
        [
            _plain(line.point.name),
            *(_cell(line.cells[i].text, line.cells[i].interval) for i in _SHOWN),
            ", ".join(line.marks),
        ]
        for line in lines
    ]
    bars = ["---"] * len(first)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [first, bars, *rows])


def _cell(value: str, interval: str) -> str:
    return _plain(f"{value} ({interval})" if interval else value)


def _seeds(sweep: Sweep) -> str:
    return ", ".join(map(str, sweep.seeds)) or "none"


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: no tags, no links, no table cells, no lines of its own."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(text.split()))
