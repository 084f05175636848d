"""A table as LaTeX: whatever its text is, only the renderer's own commands, cells, rows and comments are in it."""

from __future__ import annotations

import re

import pytest

from fedsim.report.document import Heading, RowGroup, Table, TableCell, TableRow, number
from fedsim.report.document.latex import escape_latex, table_to_latex

HOSTILE = "a_b & 50% \\input{x} \\\\[1cm] $y$ #1 ~^\n% \\end{tabular}"


def written(table: Table) -> str:
    return table_to_latex(table, "A table.", "tab:one", ["first", "second"])


def rows_in(text: str) -> list[list[str]]:
    """Parse rows and cells as LaTeX does: comments end at the line, a backslash takes the next character."""
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    commands = re.sub(r"(?m)^%.*\n", "", body)
    assert not re.search(r"\\\\\s*[\[*]", commands), "the end of a row takes an argument"
    tokens = re.findall(r"\\[A-Za-z]+|\\.|%[^\n]*\n|.|\n", body, re.DOTALL)
    rows, cells, depth = [], [""], 0
    for token in tokens:
        depth += (token == "{") - (token == "}")
        assert depth >= 0, "a brace closes that nobody opened"
        if token == r"\\":
            assert depth == 0, "a row ends within braces"
            rows.append([*cells])
            cells = [""]
        elif token == "&" and depth == 0:
            cells.append("")
        elif not token.startswith("%") and token != r"\midrule":
            cells[-1] += token
    assert depth == 0
    assert "".join(cells).strip() == "", "something stands behind the last row"
    return [[cell.strip() for cell in row] for row in rows]


def read_back(cell: str) -> str:
    """Return the text that a reader sees in a cell without commands of the renderer."""
    words = {
        "textbackslash": "\\",
        "textasciicircum": "^",
        "textasciitilde": "~",
        "textless": "<",
        "textgreater": ">",
        "textbar": "|",
    }
    cell = re.sub(r"\\([a-z]+)\{\}", lambda found: f"\0{ord(words[found[1]])}\0", cell)
    cell = re.sub(r"\{([\[*])\}", r"\1", cell)
    cell = re.sub(r"\\([{}$&#%_])", r"\1", cell)
    return re.sub("\0(\\d+)\0", lambda found: chr(int(found[1])), cell)


def test_a_table_written_by_hand() -> None:
    rows = (
        TableRow(
            (
                TableCell("dlg"),
                TableCell("90%", "80 to 95", is_best=True),
                TableCell("60", notes=("failed on 1 of 61",)),
            )
        ),
        TableRow((TableCell("idlg", tags=("control",)),), "failed: too few\nclients"),
    )
    table = Table("T", (Heading("attack"), number("found_it"), number("n")), (RowGroup("p = 0.5", rows),), "arm")
    assert written(table) == (
        "% first\n"
        "% second\n"
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{A table.}\n"
        "\\label{tab:one}\n"
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "attack & found\\_it & n \\\\\n"
        "\\midrule\n"
        "\\multicolumn{3}{l}{\\textit{p = 0.5}} \\\\\n"
        "dlg & \\textbf{90\\%} (80 to 95) & 60 (failed on 1 of 61) \\\\\n"
        "% failed: too few clients\n"
        "idlg (control) & \\multicolumn{2}{l}{failed} \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\end{table}\n"
    )


@pytest.mark.parametrize("text", [HOSTILE, "[x] first", "* first", "{", "}", "\\", "100%", "a|b<c>d", "\x1b[31m"])
def test_hostile_text_stays_in_its_cell(text: str) -> None:
    cells = (TableCell(text), TableCell(text, text, (text,), (text,)))
    group = RowGroup(text, (TableRow(cells), TableRow((TableCell(text),), text)))
    table = Table("T", (Heading(text), number(text)), (group,), "arm")
    source = table_to_latex(table, text, "tab:one", [text])
    shown = " ".join(text.split()).replace("\x1b", "\\x1b")
    head, title, row, failed = rows_in(source)
    assert [read_back(cell) for cell in head] == [shown, shown]
    assert len(title) == 1
    assert read_back(row[0]) == shown
    assert read_back(row[1]) == f"{shown} ({shown}) ({shown}; {shown})"
    assert (read_back(failed[0]), failed[1]) == (shown, r"\multicolumn{1}{l}{failed}")
    commands = set(re.findall(r"(?<!\\)\\([A-Za-z]+)", re.sub(r"(?m)^%.*\n", "", source).replace(r"\\", "")))
    assert not commands & {"input", "cm"}
    assert source.count(r"\end{tabular}") == 1 + sum(
        line.count(r"\end{tabular}") for line in source.splitlines() if line.startswith("%")
    )


def test_text_that_is_no_ascii_has_the_symbols_of_mathematics() -> None:
    assert escape_latex("ε \N{EN DASH} café") == r"$\varepsilon$ -- café"


def test_a_label_with_commands_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        table_to_latex(Table.of("T", ("a",), []), "c", "a}b", [])
