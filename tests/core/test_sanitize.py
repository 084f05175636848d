import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.cli.commands._console import _Screen
from fedsim.core.sanitize import csv_table, drop_empty_columns, printable, printable_json


def test_control_characters_are_written_out_and_other_text_stays() -> None:
    assert printable("\x1b]0;title\x07\x9b2J\x7f\r\u202e\u2066") == r"\x1b]0;title\x07\x9b2J\x7f\x0d\u202e\u2066"
    whole = "grün, 日本語, \u200f-marked\n\tindented"
    assert printable(whole) == whole


@given(st.recursive(st.text(), lambda own: st.lists(own) | st.dictionaries(st.text(), own)), st.booleans())
@settings(max_examples=10)  # values are nested
def test_texts_of_json_are_printable_once_they_are_read(value: Any, is_ascii: bool) -> None:
    def written_out(own: Any) -> Any:
        if isinstance(own, dict):
            return {printable(key): written_out(held) for key, held in own.items()}
        return printable(own) if isinstance(own, str) else [written_out(held) for held in own]

    content = json.dumps(value, ensure_ascii=is_ascii, indent=1).replace("\n", "\r\n").encode()
    assert json.loads(printable_json(content)) == written_out(value)
    assert printable_json(b"\xff") == b"\xff"


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "@SUM(A1)", "+1+1", "-2+3", "=cmd|x", "\t=1", "\r=1"])
def test_no_text_of_a_table_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_table([text, "b"], [[text, 1]]).decode(), newline="")))
    assert [row[0][0] for row in rows] == ["'", "'"]
    assert rows[1][1] == "1"


def test_numbers_and_words_of_a_table_stay() -> None:
    values = [-1.5, "-1.5", "+2e-3", "-inf", "plain", "a=b", None, True]
    table = csv_table(["x"] * len(values), [values]).decode()
    assert table.splitlines()[1] == "-1.5,-1.5,+2e-3,-inf,plain,a=b,,True"


def test_what_is_shown_cannot_act_on_the_terminal() -> None:
    shown = io.StringIO()
    screen = _Screen(file=shown, force_terminal=True, color_system="standard", width=80)
    screen.print("[bold]fine[/bold] \x1b]0;owned\x07 \x1b[2J", highlight=False)
    assert "\x1b[1mfine" in shown.getvalue()
    assert r"\x1b]0;owned" in shown.getvalue()
    assert "\x1b]" not in shown.getvalue()
    assert "\x1b[2J" not in shown.getvalue()


def test_columns_without_a_value_are_left_out_unless_they_are_kept() -> None:
    rows = [(1, None, "", 0, None), (2, None, "", None, "x")]
    assert drop_empty_columns("abcde", rows) == (["a", "d", "e"], [[1, 0, None], [2, None, "x"]])
    assert drop_empty_columns("abcde", rows, kept=("c", "absent"))[0] == ["a", "c", "d", "e"]
    assert drop_empty_columns("ab", []) == ([], [])
