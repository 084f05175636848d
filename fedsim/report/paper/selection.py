"""Rows and columns of a table by the names of the page, and the best value of each metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.report.document import Measurement, RowGroup, Table, TableCell, TableRow

_NAMES = ("setting", "attack", "figure")  # headings of the columns that name a row
_COUNTS = ("n", "seeds", "victims", "seeds, victims")  # headings of the sample sizes
_CONTROLS = frozenset({"invalid", "positive-control", "negative-control", "context"})

_NameOf = Callable[[Table, RowGroup, TableRow], str]


@dataclass(frozen=True)
class Selection:
    """Names of rows and columns; an empty tuple selects all.

    Attributes:
        arms: arms of a run, or settings of a sweep.
        attacks: labels of attacks.
        metrics: headings, with or without the unit; names of metrics; or figures of a question.
    """

    arms: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


def select(table: Table, selection: Selection) -> Table:
    """Return the selected rows and columns of a table.

    Columns that name rows and state sample sizes are always selected. Without chosen metrics, columns that a narrow
    screen omits are dropped.

    Raises:
        FedsimError: a name is that of no arm, attack or metric of the table.
    """
    _check("--arm", selection.arms, _values(table, _arm_of))
    _check("--attack", selection.attacks, _values(table, _attack_of))
    _check("--metric", selection.metrics, _metric_names(table))
    groups = (
        replace(group, rows=tuple(row for row in group.rows if _is_selected(table, group, row, selection)))
        for group in table.groups
    )
    filled = tuple(group for group in groups if group.rows)
    if not filled:
        raise FedsimError("no row of the table has all of the chosen names. Choose fewer of --arm, --attack, --metric.")
    return replace(table, groups=filled).with_columns(_kept_columns(table, selection))


def _check(option: str, wanted: Sequence[str], known: Iterable[str]) -> None:
    names = list(dict.fromkeys(known))
    for name in wanted:
        if not _has(names, name):
            raise FedsimError(f"{option} is '{name}', which the table does not have.{did_you_mean(name, names)}")


def _has(names: Iterable[str], name: str) -> bool:
    return name.casefold() in {known.casefold() for known in names}


def _values(table: Table, name_of: _NameOf) -> Iterator[str]:
    return (name for group in table.groups for row in group.rows if (name := name_of(table, group, row)))


def _arm_of(table: Table, group: RowGroup, row: TableRow) -> str:
    return group.title if table.group_heading else _text_below(table, row, "setting")


def _attack_of(table: Table, group: RowGroup, row: TableRow) -> str:
    del group
    return _text_below(table, row, "attack")


def _text_below(table: Table, row: TableRow, heading: str) -> str:
    headed = zip(table.headings, row.cells, strict=False)  # a row with a reason has only its first cells
    return next((cell.text for head, cell in headed if head.text == heading), "")


def _metric_names(table: Table) -> Iterator[str]:
    for place in range(len(table.headings)):
        yield from _names_of(table, place)
    for row in table.rows:
        yield from _figures_of(table, row)


def _names_of(table: Table, place: int) -> list[str]:
    """Return the names of a column: its heading, the heading without a unit, and the metrics in its cells."""
    heading = table.headings[place].text
    cells = [row.cells[place] for row in table.rows if place < len(row.cells)]
    return [heading, heading.partition(" (")[0], *(cell.measurement.metric for cell in cells if cell.measurement)]


def _is_selected(table: Table, group: RowGroup, row: TableRow, selection: Selection) -> bool:
    is_arm = not selection.arms or _has(selection.arms, _arm_of(table, group, row))
    is_attack = not selection.attacks or _has(selection.attacks, _attack_of(table, group, row))
    own = _figures_of(table, row)
    chosen = _chosen_figures(table, selection)
    return is_arm and is_attack and (not chosen or not own or any(_has(own, name) for name in chosen))


def _chosen_figures(table: Table, selection: Selection) -> list[str]:
    """Return the chosen metrics that are figures of single rows, which need no column of their own."""
    figures = [name for row in table.rows for name in _figures_of(table, row)]
    return [name for name in selection.metrics if _has(figures, name)]


def _figures_of(table: Table, row: TableRow) -> list[str]:
    """Return title and name of the metric of a row of a question's table; empty for other tables and failed rows."""
    title = _text_below(table, row, "figure")
    headed = zip(table.headings, row.cells, strict=False)
    found = next((cell.measurement for head, cell in headed if head.text == "found"), None)
    return [title, *([found.metric] if found else [])] if title else []


def _kept_columns(table: Table, selection: Selection) -> list[bool]:
    figures = _chosen_figures(table, selection)
    columns = [name for name in selection.metrics if name not in figures]
    columns += ["found"] if columns and figures else []
    return [
        heading.text in (*_NAMES, *_COUNTS)
        or (any(_has(_names_of(table, place), name) for name in columns) if columns else not heading.is_extra)
        for place, heading in enumerate(table.headings)
    ]


def names_of_rows(table: Table) -> list[tuple[str, str]]:
    """Return arm or setting, and attack, of every row; empty if the table does not name them."""
    return [(_arm_of(table, group, row), _attack_of(table, group, row)) for group in table.groups for row in group.rows]


def mark_best(table: Table) -> Table:
    """Return the table with the best value of every column and metric marked, in the metric's declared direction.

    Controls and invalid findings take no part; values that display alike are marked alike.
    """
    best: dict[tuple[int, str], TableCell] = {}
    for row in table.rows:
        for place, cell in enumerate(row.cells):
            if (measured := _competing(row, cell)) is not None:
                key = (place, measured.metric)
                best[key] = max(best.get(key, cell), cell, key=_strength)
    groups = (replace(group, rows=tuple(_marked(row, best) for row in group.rows)) for group in table.groups)
    return replace(table, groups=tuple(groups))


def _competing(row: TableRow, cell: TableCell) -> Measurement | None:
    is_control = any(_CONTROLS.intersection(other.tags) for other in row.cells)
    return cell.measurement if cell.measurement and cell.measurement.better and not is_control else None


def _strength(cell: TableCell) -> float:
    assert cell.measurement is not None, "it competes"
    return cell.measurement.value if cell.measurement.better == "higher" else -cell.measurement.value


def _marked(row: TableRow, best: dict[tuple[int, str], TableCell]) -> TableRow:
    cells = (
        replace(cell, is_best=True)
        if (measured := _competing(row, cell)) and best[place, measured.metric].text == cell.text
        else cell
        for place, cell in enumerate(row.cells)
    )
    return replace(row, cells=tuple(cells))
