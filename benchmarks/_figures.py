"""Tables of results, and the pages that show them between two comments: ``<!-- figures: NAME -->``, ``<!-- end -->``.

``<!-- figures: NAME: CELL -->`` shows one cell of an experiment, ``<!-- experiments -->`` all experiments by the pages
that show them, ``<!-- map: NAME -->`` an experiment as a picture, which lies in docs/images, ``<!-- costs: NAME -->``
what defenses cost and keep as one, ``<!-- systems -->`` the published systems, and ``<!-- expected: NAME -->`` what a
scenario expects (or some of it: `benchmarks._expected`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from benchmarks import _costs, _expected, _map, _systems, _values
from benchmarks._experiments import experiments
from benchmarks._markdown import escape_cells, link_path, table
from benchmarks._results import RESULTS, ROOT, Result, read
from benchmarks._rows import Row
from fedsim.core.errors import FedsimError, did_you_mean

_BLOCK = re.compile(r"(<!-- figures: (?P<name>[a-z0-9-]+)(?:: (?P<cell>[^\n]+?))? -->\n).*?<!-- end -->", re.DOTALL)
_PICTURE = re.compile(r"(<!-- (?P<kind>map|costs): (?P<name>[a-z0-9-]+) -->\n).*?<!-- end -->", re.DOTALL)
_PICTURES = {"map": _map, "costs": _costs}
IMAGES = ROOT / "docs" / "images"
_EXPECTED = re.compile(
    r"(<!-- expected: (?P<name>[a-z0-9_]+)(?:: (?P<metrics>[^:\n]+?))?(?:: (?P<part>[^\n]+?))? -->\n)"
    r".*?<!-- end -->",
    re.DOTALL,
)
_LIST = re.compile(r"(<!-- (?P<kind>experiments|systems) -->\n).*?<!-- end -->", re.DOTALL)


def without_staleness(text: str) -> str:
    """Return a page's text without the sentences on changed code, which each change of the code may add or remove."""
    return re.sub(rf"{_values.CHANGED}[^*<\n]*", "", text)


def pages() -> Iterator[Path]:
    """Yield every page that may show figures."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def render_page(text: str, page: str, folder: Path = RESULTS) -> str:
    """Return a page's text with the tables of the results that lie in a folder.

    Raises:
        FedsimError: results or a cell are missing.
    """
    try:
        return _render(text, page, folder)
    except FedsimError as error:
        raise FedsimError(f"{page}: {error}") from error


def _render(text: str, page: str, folder: Path) -> str:
    def block(match: re.Match[str]) -> str:
        result, cell = read(match["name"], folder), match["cell"]
        if cell and cell not in result.cells:
            known = did_you_mean(cell, result.cells)
            raise FedsimError(f"the results of '{match['name']}' have no cell '{cell}'.{known}")
        rows = result.cells[cell] if cell else result.rows
        return f"{as_table(rows)}\n\n{caption(result, cell)}"

    def picture(match: re.Match[str]) -> str:
        name = match["name"]
        words = _PICTURES[match["kind"]].alt_text(read(name, folder).rows, name)
        return f"![{words}]({link_path(IMAGES / f'{name}.svg', ROOT / page)})"

    def expected(match: re.Match[str]) -> str:
        return _expected.as_tables(match["name"], match["metrics"] or "", match["part"] or "")

    def listing(match: re.Match[str]) -> str:
        return _systems.as_markdown(page) if match["kind"] == "systems" else _experiment_index(page)

    try:
        text = _values.render(text, folder)
    except FedsimError as error:
        raise FedsimError(f"{page}: {error}") from error
    for pattern, content in ((_PICTURE, picture), (_EXPECTED, expected), (_LIST, listing), (_BLOCK, block)):
        text = pattern.sub(lambda match, content=content: f"{match[1]}\n{content(match)}\n\n<!-- end -->", text)
    return text


def _experiment_index(page: str) -> str:
    """Return a line for each page that shows figures: its title, and its experiments with what they take."""
    page_of = attrgetter("page")
    by_page = groupby(sorted(experiments().values(), key=page_of), page_of)
    rows: list[Sequence[str]] = []
    for place, entries in by_page:
        file = ROOT / "docs" / f"{place}.md"
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        names = ", ".join(f"`{one.name}` {one.minutes:g}" for one in entries)
        rows.append((f"[{title}]({link_path(file, ROOT / page)})", names))
    return table(("page", "experiments, minutes"), rows)


def maps(folder: Path = RESULTS) -> Iterator[tuple[Path, str]]:
    """Yield the picture of each experiment that a page shows as a map or by its costs, and where it lies."""
    texts = (page.read_text(encoding="utf-8") for page in pages())
    shown = {(match["kind"], match["name"]) for text in texts for match in _PICTURE.finditer(text)}
    for kind, name in sorted(shown):
        yield IMAGES / f"{name}.svg", _PICTURES[kind].draw(read(name, folder).rows, name)


def caption(result: Result, cell: str | None = None) -> str:
    """Return the line under a table: command, date, commit, processor, and whether the code has changed since."""
    return f"*{_values.origin(result, cell)}; in brackets 95 % intervals.{_values.staleness(result)}*"


def as_table(rows: Sequence[Row]) -> str:
    """Return Markdown: a line a setting and a column a name, a table for all lines of the same names."""
    tables: dict[tuple[tuple[str, str], ...], list[tuple[str, Sequence[Row]]]] = {}
    for setting, of_setting in groupby(rows, lambda row: row.setting):
        line = list(of_setting)
        tables.setdefault(tuple((row.name, row.unit) for row in line), []).append((setting, line))
    return "\n\n".join(_table(columns, lines) for columns, lines in tables.items())


def _table(columns: Sequence[tuple[str, str]], lines: Sequence[tuple[str, Sequence[Row]]]) -> str:
    heads = ["setting", *(f"{name}, {unit}" if unit else name for name, unit in columns), "n"]
    body = [
        [setting, *map(cell_of, rows), ", ".join(dict.fromkeys(str(row.n) for row in rows))] for setting, rows in lines
    ]
    return table(heads, map(escape_cells, body))


def cell_of(row: Row) -> str:
    """Return a figure with its interval, its bound, whether it keeps that, and its note; of no unit, the note alone."""
    if not row.n:
        return row.note
    ends = "" if row.low is None or row.high is None else f" [{_number(row.low)}, {_number(row.high)}]"
    bound = f", goal {row.must}" if row.must else ""
    return (
        f"{_number(row.value)}{ends}{bound}{'' if row.holds else ': **not kept**'}{f'; {row.note}' if row.note else ''}"
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"  # noqa: PLR2004
