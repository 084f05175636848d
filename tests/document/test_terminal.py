"""A terminal shows intervals where it is wide enough, and no text of a record controls it."""

from __future__ import annotations

import io

from rich.console import Console

from fedsim.document import to_terminal
from tests.document.made import document, table


def _printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    to_terminal([table()], console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_intervals_stand_where_the_screen_is_wide() -> None:
    assert "50 % [10, 90]" in _printed(300)
    narrow = _printed(40)
    assert "50 %" in narrow
    assert "[10, 90]" not in narrow
    assert "failed" in narrow


def test_every_block_but_pictures_is_printed_and_none_controls_the_screen() -> None:
    console = Console(file=io.StringIO(), width=200)
    to_terminal(document().sections[0].blocks, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text
    for shown in ("plain: This is  broken  now Or not.", "Careful.", "knows labels", "seed: 7", "inner", "meaning"):
        assert shown in text, shown
