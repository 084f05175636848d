"""Every outcome has a level of its own look."""

from typing import get_args

from fedsim.judgement.limits import LimitState
from fedsim.record import Outcome
from fedsim.report.document import Document, Level, Verdict
from fedsim.report.document.html import to_html
from fedsim.report.levels import LEVEL_OF


def test_every_outcome_has_a_level() -> None:
    assert set(LEVEL_OF) == set(get_args(Outcome))


def test_the_state_of_a_limit_is_a_level() -> None:
    assert set(get_args(LimitState)) < set(get_args(Level))


def test_only_what_withstood_looks_kept() -> None:
    assert [outcome for outcome, level in LEVEL_OF.items() if level == "kept"] == ["withstood"]


def test_an_undecided_answer_is_framed_as_a_caution() -> None:
    html = to_html(Document("title", opening=(Verdict(LEVEL_OF["undecided"], "Not decided."),)))
    assert '<div class="verdict undecided">' in html
    assert ".verdict.caution, .verdict.undecided {" in html
