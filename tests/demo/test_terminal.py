"""The demo in a terminal: its pixels, and what is printed where nothing can move."""

import io
import re

import pytest
import torch
from rich.console import Console

from fedsim.demo import terminal
from fedsim.demo.messages import messages
from fedsim.demo.victim import Setting


def test_each_character_holds_two_pixels() -> None:
    pixels = torch.tensor([[0.0, 1.0], [1.0, 0.5], [0.2, 0.0], [0.0, 0.0]])
    text = terminal.half_blocks(pixels)
    assert text.plain == "▀▀\n▀▀\n"
    assert [str(span.style) for span in text.spans][:2] == [
        "rgb(0,0,0) on rgb(255,255,255)",
        "rgb(255,255,255) on rgb(128,128,128)",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_all_attacks_end_with_their_scores(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_ITERATIONS", 3)
    out = io.StringIO()
    terminal.show(Console(file=out, width=80, force_terminal=is_terminal), Setting(rate=0.5))
    for expected in ("original", "inverting-gradients", "dropout-inversion", "closed-form-linear", "iteration 3, "):
        assert expected in out.getvalue()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)  # nothing was cut to fit
    assert out.getvalue().count("original") == 3 or is_terminal


def test_it_speaks_other_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_ITERATIONS", 1)
    out = io.StringIO()
    terminal.show(Console(file=out, width=80), Setting(rate=0.5), "de")
    assert messages("de")["terminal.original"] in out.getvalue()
