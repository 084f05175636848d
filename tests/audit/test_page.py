"""The page of an audit shows how long was searched and on how much, and hostile names as text."""

import io

from rich.console import Console

from fedsim.audit import page, screen
from fedsim.document import to_html
from fedsim.record.policy import Policy
from tests.audit.findings import membership, record, trial


def test_terminal_and_page_show_how_long_and_on_how_much_was_searched() -> None:
    found = record(Policy(max_recognisable=0.1), trials=(trial("any", 0, 0.0, iterations=40, converged=False),))
    console = Console(width=200, record=True, file=io.StringIO())
    screen.show(found, console)
    text = console.export_text()
    assert "0 (0 to 9) %" in text
    assert "40  40 it., 0 of 40" in text
    assert "4  500 it., 4 of 4" in text
    assert "undecided" in text
    html = to_html(page.build(found, {}))
    assert "undecided<br><small>40 of 40 searches did not converge within 40 iterations" in html
    assert '<td class="number">40 it., 0 of 40 converged</td><td class="number">0 (0 to 9) %</td>' in html
    assert "Recommended" not in html


def test_hostile_names_are_text_and_the_page_needs_no_network() -> None:
    trials = (trial("<img src=x>", 0, 0.01),)
    html = to_html(page.build(record(Policy(max_recognisable=0.1), trials=trials, findings=(membership(0.2),)), {}))
    assert html.count("<script") == 1  # its own, which the policy names by its hash
    assert "<img src=x>" not in html
    assert "&lt;img src=x&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
