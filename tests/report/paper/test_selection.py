"""Rows and columns by the page's names, and the best value in both directions."""

from __future__ import annotations

from typing import Literal

import pytest

from fedsim.core.errors import FedsimError
from fedsim.report.document import Heading, Measurement, RowGroup, Table, TableCell, TableRow, number
from fedsim.report.paper.selection import Selection, mark_best, select


def measured(value: float, metric: str, better: Literal["", "higher", "lower"] = "higher") -> TableCell:
    return TableCell(f"{value:g}", measurement=Measurement(metric, value, None, None, 4, better=better))


def row(attack: str, psnr: float, mse: float, *tags: str) -> TableRow:
    cells = (measured(psnr, "psnr"), measured(mse, "mse", "lower"), TableCell("4"), TableCell("3 s"))
    return TableRow((TableCell(attack, tags=tags), *cells))


HEADINGS = (Heading("attack"), number("median PSNR (dB)"), number("MSE"), number("n"), number("time", is_extra=True))
FAILED = TableRow((TableCell("idlg"),), "failed: no label")
TABLE = Table(
    "Attacks",
    HEADINGS,
    (
        RowGroup("plain", (row("dlg", 20, 0.1), row("ig", 30, 0.3), FAILED)),
        RowGroup("noise", (row("dlg", 5, 0.01), row("ig", 40, 0.9, "negative-control"))),
    ),
    "arm",
)


def texts(table: Table) -> list[list[str]]:
    return [[group.title, *(cell.text for cell in line.cells)] for group in table.groups for line in group.rows]


def headings(table: Table) -> list[str]:
    return [heading.text for heading in table.headings]


def test_everything_but_extra_columns_without_names() -> None:
    table = select(TABLE, Selection())
    assert headings(table) == ["attack", "median PSNR (dB)", "MSE", "n"]
    assert texts(table)[0] == ["plain", "dlg", "20", "0.1", "4"]
    assert [len(group.rows) for group in table.groups] == [3, 2]


@pytest.mark.parametrize("name", ["median PSNR (dB)", "median psnr", "psnr"])
def test_a_metric_is_named_by_heading_or_metric_and_n_stays(name: str) -> None:
    assert headings(select(TABLE, Selection(metrics=(name,)))) == ["attack", "median PSNR (dB)", "n"]


def test_an_extra_column_is_there_when_it_is_named() -> None:
    assert headings(select(TABLE, Selection(metrics=("time",)))) == ["attack", "n", "time"]


def test_arms_and_attacks_choose_rows_and_a_failed_attack_stays_failed() -> None:
    table = select(TABLE, Selection(arms=("plain",), attacks=("IDLG", "dlg"), metrics=("mse",)))
    assert texts(table) == [["plain", "dlg", "0.1", "4"], ["plain", "idlg"]]
    assert table.rows[1].reason == "failed: no label"


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(arms=("plan",)), "Did you mean 'plain'?"),
        (Selection(attacks=("dgl",)), "Did you mean 'dlg'?"),
        (Selection(metrics=("psrn",)), "Did you mean 'psnr'?"),
        (Selection(arms=("noise",), attacks=("idlg",)), "--arm"),
    ],
)
def test_a_mistake_names_the_nearest_name(selection: Selection, said: str) -> None:
    with pytest.raises(FedsimError) as error:
        select(TABLE, selection)
    assert said in str(error.value)


def best(table: Table) -> list[tuple[str, str, str]]:
    return [
        (group.title, line.cells[0].text, heading.text)
        for group in table.groups
        for line in group.rows
        for heading, cell in zip(table.headings, line.cells, strict=False)
        if cell.is_best
    ]


def test_the_best_is_highest_or_lowest_as_declared_and_controls_take_no_part() -> None:
    assert best(mark_best(TABLE)) == [("plain", "ig", "median PSNR (dB)"), ("noise", "dlg", "MSE")]


def test_alike_values_are_alike_and_without_a_direction_none_is_best() -> None:
    rows = (
        TableRow(
            (TableCell("a"), TableCell("1.0", measurement=Measurement("psnr", 1.01, None, None, 4, better="higher")))
        ),
        TableRow(
            (TableCell("b"), TableCell("1.0", measurement=Measurement("psnr", 1.02, None, None, 4, better="higher")))
        ),
    )
    alike = Table.of("T", ("attack", number("PSNR")), rows)
    assert best(mark_best(alike)) == [("", "a", "PSNR"), ("", "b", "PSNR")]
    undirected = Table.of("T", ("attack", number("x")), [TableRow((TableCell("a"), measured(1, "x", "")))])
    assert best(mark_best(undirected)) == []


def test_metrics_of_one_column_compete_apart_and_choose_their_rows() -> None:
    def found(label: str, figure: str, cell: TableCell) -> TableRow:
        return TableRow((TableCell(label), TableCell(figure), cell, TableCell("50%")))

    rows = (
        found("lira", "AUC", measured(0.6, "auc")),
        found("lira", "loss", measured(9, "nll", "lower")),
        found("rmia", "AUC", measured(0.7, "auc")),
        found("rmia", "loss", measured(8, "nll", "lower")),
    )
    table = Table.of("Members", ("attack", "figure", number("found"), number("chance")), rows)
    assert [line.cells[2].text for line in mark_best(table).rows if line.cells[2].is_best] == ["0.7", "8"]
    chosen = select(table, Selection(metrics=("auc",)))
    assert headings(chosen) == headings(table)
    assert texts(chosen) == [["", "lira", "AUC", "0.6", "50%"], ["", "rmia", "AUC", "0.7", "50%"]]
