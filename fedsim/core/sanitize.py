"""Escaping of text from scenarios, records and other programs for terminals, pages and spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import compress
from typing import Any

_CONTROLS = (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))
_TURNS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # bidirectional: change the display order
_BYTES = 0x100
_SHOWN = {code: f"\\x{code:02x}" if code < _BYTES else f"\\u{code:04x}" for code in (*_CONTROLS, *_TURNS)}
_UNESCAPED = 0x7F  # JSON allows unescaped control characters from here on
_IN_JSON = {code: shown.replace("\\", r"\\") for code, shown in _SHOWN.items() if code >= _UNESCAPED}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")
_SHORT = {r"\b": 0x08, r"\f": 0x0C, r"\r": 0x0D}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    """Return text with escaped control characters, except tabs and newlines."""
    return text.translate(_SHOWN)


def printable_json(content: bytes) -> str | bytes:
    """Return JSON with printable decoded strings; content that is not UTF-8 is returned unchanged."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    return _ESCAPE.sub(_written_out, text.translate(_IN_JSON))


def _written_out(escape: re.Match[str]) -> str:
    code = int(escape[1], 16) if escape[1] else _SHORT.get(escape[0])
    shown = None if code is None else _SHOWN.get(code)
    return escape[0] if shown is None else shown.replace("\\", r"\\")


def csv_table(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return a table as CSV. Text that a spreadsheet would read as a formula gets a leading apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in ([*columns], *rows))
    return text.getvalue().encode()


def drop_empty_columns(
    columns: Iterable[str], rows: Sequence[Sequence[Any]], kept: Collection[str] = ()
) -> tuple[list[str], list[list[Any]]]:
    """Return the columns with a value in any row, and the columns named in `kept`, with their values."""
    names = list(columns)
    filled = [name in kept or any(row[place] not in (None, "") for row in rows) for place, name in enumerate(names)]
    return list(compress(names, filled)), [list(compress(row, filled)) for row in rows]


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.startswith(_FORMULA) and not _is_number(value) else printable(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def slug(name: str) -> str:
    """Return a name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "arm"
