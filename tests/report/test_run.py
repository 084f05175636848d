"""A page of a run has the sections that the run gives a reason for, in the order in which people read."""

from __future__ import annotations

from fedsim.record import RunRecord
from fedsim.report.run import page_of
from fedsim.report.verdict import RunJudge
from tests.report import records


def _titles(record: RunRecord) -> list[str]:
    return [section.title for section in page_of(record, {}, RunJudge.of(record), ()).sections]


def test_the_verdict_is_first_and_how_to_run_it_again_is_last_but_for_words() -> None:
    titles = _titles(records.typical())
    assert titles[0] == "Verdict"
    assert titles[-2:] == ["Run it again", "What the words mean"]
    assert titles.index("Attacks by arm") < titles.index("Attackers and their knowledge")


def test_a_section_without_a_reason_is_absent() -> None:
    empty = _titles(records.run([]))
    assert not {"Arm by arm", "What was read", "What was guaranteed", "Who took part"} & set(empty)
    stated = records.arm("private", [], guarantees=(records.guarantee(),))
    assert "What was guaranteed" in _titles(records.run([stated]))


def test_a_page_says_what_and_when_it_is_about() -> None:
    record = records.run([], status="interrupted", ended=None)
    page = page_of(record, {}, RunJudge.of(record), ())
    assert page.title == record.plan["title"]
    assert record.started in page.kicker
    assert "interrupted" in page.kicker
