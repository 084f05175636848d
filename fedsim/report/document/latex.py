"""LaTeX renderer of a table, for papers: booktabs rules, a caption, and comments on its origin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fedsim.core.sanitize import printable
from fedsim.report.document import RowGroup, Table, TableCell, TableRow

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a row, a bracket or an asterisk would be an argument
    "*": "{*}",
    "\N{EN DASH}": "--",
    "\N{GREEK SMALL LETTER EPSILON}": r"$\varepsilon$",
    "\N{GREEK SMALL LETTER DELTA}": r"$\delta$",
    "\N{GREEK SMALL LETTER KAPPA}": r"$\kappa$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))


def table_to_latex(table: Table, caption: str, label: str, comments: Sequence[str]) -> str:
    """Return a table as a LaTeX float, which needs the package booktabs.

    All text is escaped, so none of it forms a command, a cell, a row or a comment. Groups are separated by rules, below
    their titles. A row with a reason has the word "failed", and the reason is a comment.

    Args:
        table: the table.
        caption: plain text of the caption.
        label: name for references, of letters, digits, ``-`` and ``:``.
        comments: lines of plain text above the table.

    Raises:
        ValueError: `label` has other characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9:-]+", label):
        raise ValueError(f"label is '{label}', expected letters, digits, '-' and ':'")
    columns = "".join("r" if heading.is_number else "l" for heading in table.headings)
    lines = [
        *map(_comment, comments),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row([escape_latex(heading.text) for heading in table.headings]),
        *(line for group in table.groups if group.rows for line in _group(group, len(columns))),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Return text escaped for LaTeX, on a single line."""
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], _one_line(text))


def _comment(text: str) -> str:
    return f"% {_one_line(text)}"


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _group(group: RowGroup, columns: int) -> Iterator[str]:
    yield r"\midrule"
    if group.title:
        yield _row([rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{escape_latex(group.title)}}}}}"])
    for row in group.rows:
        yield from _table_row(row, columns)


def _table_row(row: TableRow, columns: int) -> Iterator[str]:
    cells = list(map(_cell, row.cells))
    if row.reason:
        yield _comment(row.reason)
        span = columns - len(cells)
        cells += [rf"\multicolumn{{{span}}}{{l}}{{failed}}"] if span else []
    yield _row(cells)


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _cell(cell: TableCell) -> str:
    text = escape_latex(cell.text)
    shown = rf"\textbf{{{text}}}" if cell.is_best else text
    beside = "; ".join([*cell.tags, *cell.notes])
    return " ".join([shown, *(f"({escape_latex(part)})" for part in (cell.interval, beside) if part)])
