"""The page of an audit shows how long was searched and on how much, and hostile names as text."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedsim.audit import page, screen
from fedsim.record.policy import Policy
from tests.audit.findings import inspection, membership, record, trial


def test_terminal_and_page_show_how_long_and_on_how_much_was_searched(tmp_path: Path) -> None:
    found = record(Policy(max_recognisable=0.1), trials=(trial("any", 0, 0.0, iterations=40, converged=False),))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(screen.updates(found))
    console.print(screen.defenses(found))
    text = console.export_text()
    assert "0 (0 to 9) %" in text
    assert "n = 40, 40 it., 0 of 40" in text
    assert "n = 4, 500 it., 4 of 4" in text
    assert "undecided" in text
    page.write(found, tmp_path)
    html = (tmp_path / "audit.html").read_text()
    assert "undecided <small>40 of 40 searches did not converge within 40 iterations" in html
    assert '<td class="number">40 it., 0 of 40 converged</td><td class="number">0 (0 to 9) %</td>' in html
    assert "Recommended" not in html


def test_hostile_names_are_text_and_the_page_needs_no_network(tmp_path: Path) -> None:
    trials = (trial("<img src=x>", 0, 0.01),)
    page.write(record(Policy(max_recognisable=0.1), trials=trials, findings=(membership(0.2),)), tmp_path)
    html = (tmp_path / "audit.html").read_text()
    assert html.count("<script") == 1  # its own, which the policy names by its hash
    assert "<img src=x>" not in html
    assert "&lt;img src=x&gt;" in html
    assert "http" not in html.replace("http-equiv", "")


def test_at_most_eight_pictures_stand_in_a_row_each_with_its_score(tmp_path: Path) -> None:
    many = inspection(3, of=page.MOST + 2)
    victims = tuple(own.model_copy(update={"arrays": f"b/{number}"}) for number, own in enumerate(many.victims))
    names = [f"{own.arrays}/{kind}" for own in victims for kind in ("guesses", "originals")]
    arrays = {name: np.full((1, 1, 4, 4), 0.5) for name in names}
    found = record(Policy(), inspections=(many.model_copy(update={"victims": victims}),))
    (wall,) = page._walls(found, arrays)
    assert wall.of == page.MOST + 2
    originals, guesses = wall.rows
    assert len(originals.pictures) == len(guesses.pictures) == page.MOST
    assert [own.is_recovered for own in guesses.pictures] == [True] * 3 + [False] * (page.MOST - 3)
    assert guesses.pictures[0].alt.startswith("Guess of update 1, image 1: ")
    assert originals.pictures[0].alt == "Original of update 1, image 1"
    assert list(page._walls(found, {})) == []


@pytest.mark.parametrize(("channels", "expected"), [(1, [0.2, 0.2, 0.2]), (2, [0.2, 0.2, 0.2]), (3, [0.2, 1.0, 0.0])])
def test_pictures_are_grey_unless_they_have_three_channels(channels: int, expected: list[float]) -> None:
    image = np.array([0.2, 7.0, np.nan])[:channels, None, None] * np.ones((channels, 2, 2))
    assert page._in_colour(image)[0, 0].tolist() == expected
