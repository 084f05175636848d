"""An audit's findings as text."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from fedsim.audit import planted, screen
from fedsim.audit.groups import compare
from fedsim.metrics.groups import GroupRisk
from fedsim.record import Interval, VictimRecord
from fedsim.record.policy import Policy
from tests.audit.findings import exposure, inspection, membership, record, secrets, trial


def shown(table: Table) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_an_interval_without_bounds_is_its_value() -> None:
    assert screen.interval(Interval(value=0.256, low=0.2, high=0.3, n=9), 100, 1) == "25.6 (20.0 to 30.0)"
    assert screen.interval(Interval(value=0.256, low=None, high=None, n=1), 1, 2) == "0.26"


def test_a_batch_size_that_failed_stands_with_its_reason_and_the_others_with_their_counts() -> None:
    failed = inspection(0, batch=16).model_copy(update={"failure": "too many", "victims": (), "summary": None})
    text = shown(screen.updates(record(Policy(), inspections=(inspection(3), failed))))
    assert "75 (30 to 95) %" in text
    assert "too many" in text


def test_members_are_told_at_one_percent_or_that_there_were_too_few() -> None:
    lost = membership(0.2, failure="no shadows")
    text = shown(screen.members(record(Policy(), findings=(membership(0.2), membership(None), lost))))
    assert "20 (0 to 100) %" in text
    assert "too few" in text
    assert "no shadows" in text
    assert text.count("the trained model") == 2


def test_a_defense_that_failed_is_undecided_and_the_control_comes_first() -> None:
    broken = trial("ats", 0, 0.0).model_copy(update={"failure": "its 3 s were not enough", "inspection": None})
    text = shown(screen.defenses(record(Policy(max_recognisable=0.1), trials=(broken, trial("noise", 0, 0.01)))))
    control, rest = text.index("none (control)"), text.index("noise")
    assert control < rest < text.index("its 3 s were not enough")
    assert "not attacked" in text
    assert "1.0 (0.0 to 2.0)" in text
    assert screen.kept(record(Policy(), trials=()), trial("noise", 0, 0.0)) == "no policy"


WORDS = {"found": {"every word read": 1.0}}


def test_the_winner_is_the_attack_that_auto_chose_most_often() -> None:
    def victims(*notes: str) -> tuple[VictimRecord, ...]:
        return tuple(VictimRecord(round=1, client=0, notes=(note,)) for note in notes)

    own = inspection(0).model_copy(update={"victims": victims("won: dia, 2 starts", "won: ig", "won: dia")})
    assert screen.winner(own) == "dia"
    read = own.model_copy(update={"victims": (*own.victims, own.victims[0].model_copy(update=WORDS))})
    assert screen.winner(read) == "word-readout: every word, not their order"
    assert screen.winner(inspection(1).model_copy(update={"victims": read.victims})) == "dia"
    nobody = own.model_copy(update={"victims": victims("tried all")})
    assert screen.winner(nobody) == "none"
    assert screen.winner(nobody.model_copy(update={"is_short": True})) == "an unfinished search"


@pytest.mark.parametrize(("is_terminal", "lines"), [(False, 2), (True, 0)])
def test_the_time_left_is_one_line_a_step_where_there_is_no_terminal(is_terminal: bool, lines: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=80)
    with screen.counting(console) as told:
        told("loads", 125.0)
        told("loads", 124.0)
        told("attacks", 61.5)
    if not is_terminal:
        assert out.getvalue().splitlines() == ["2:05 left  loads", "1:01 left  attacks"]
    assert out.getvalue().count("left  loads\n") == (1 if lines else 0)


def test_the_figure_beside_the_share_is_one_of_which_there_is_more_to_say_than_a_share() -> None:
    own, column = inspection(3), screen.headline()
    assert column.metric.spread
    assert column.metric.shown
    assert screen.told(own, column) == "30.0 (30.0 to 30.0) dB"
    assert screen.told(own.model_copy(update={"summary": None}), column) == ""
    assert screen.recovered(None) == "not scored"


def test_what_a_model_remembers_stands_beside_secrets_that_were_not_planted() -> None:
    remembered = record(Policy(), findings=exposure(), items=secrets())
    rows = list(screen.secret_rows(remembered))
    assert [(own[0], own[1], own[2], own[-1]) for own in rows] == [
        ("not (control)", "8", "0.0 times", ""),
        ("1 x", "8", "4.0 times", "no"),
        ("16 x", "8", "64.0 times", "yes"),
    ]
    assert planted.sentence_of(exposure()) == (
        "The trained model remembers secrets that were planted 16 times. "
        "Those planted once are not told from those that were not."
    )
    assert screen.secrets(remembered).row_count == 3


def test_the_risk_of_named_groups_is_one_row_each() -> None:
    risk = GroupRisk(Interval(value=0.5, low=0.2, high=0.8, n=9), p=0.03)
    findings = compare("sex", "rows recovered", "recovered", {"sex f": risk, "sex m": risk})
    table = screen.groups(record(Policy(), group="sex", findings=findings))
    assert table.row_count == 2
    assert "0.03" in map(str, table.columns[-1].cells)
