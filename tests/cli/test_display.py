import re
from io import StringIO

import pytest
import torch
from rich.console import Console

from fedsim.cli.display import LiveBars, PlainLines, open_display
from fedsim.core.types import Step
from fedsim.record import Cause, Failure, Finding, Interval, RoundRecord, VictimRecord


def told(record: RoundRecord) -> list[str]:
    text = StringIO()
    lines = PlainLines(Console(file=text, width=200))
    lines.arm("all", 1, 1, 9)
    lines.round(record)
    return text.getvalue().splitlines()[1:]


def lost(client: int, cause: Cause) -> Failure:
    return Failure(subject=f"client {client}", reason=f"why {cause}", cause=cause)


def test_a_round_says_who_counted_and_gives_reasons_of_what_nobody_declared() -> None:
    failures = (lost(0, "dropout"), lost(2, "error"), lost(3, "dropout"), lost(4, "crash"))
    record = RoundRecord(
        round=3,
        cohort=(0, 1, 2, 3, 4),
        participants=(1,),
        failures=failures,
        training_loss=1.0,
        test_metrics={"test_accuracy": 0.5},
    )
    assert told(record) == [
        "  round 3 of 9: 1 of 5 counted, 1 crash, 2 dropout, 1 error, accuracy 50.0%",
        "  round 3: client 2 left out: why error",
    ]


def test_a_reason_of_several_clients_to_refuse_is_told_once_with_their_number() -> None:
    failures = tuple(Failure(subject=f"client {c}", reason="refused: it is dead", cause="refused") for c in range(2))
    assert told(RoundRecord(round=1, cohort=(0, 1, 2), participants=(2,), failures=failures, training_loss=1.0)) == [
        "  round 1 of 9: 1 of 3 counted, 2 refused",
        "  round 1: 2 of 3 clients refused: it is dead",
    ]


def test_a_round_in_which_nothing_happened_is_told_only_when_it_was_evaluated() -> None:
    assert told(RoundRecord(round=1, cohort=(0, 1), participants=(0, 1), training_loss=1.0)) == []
    assert told(
        RoundRecord(round=1, cohort=(0,), participants=(0,), training_loss=1.0, test_metrics={"test_accuracy": 1.0})
    ) == ["  round 1 of 9: accuracy 100.0%"]
    assert told(RoundRecord(round=2, cohort=(), participants=(), training_loss=1.0)) == [
        "  round 2 of 9: 0 of 0 counted"
    ]


def test_a_round_of_text_says_how_many_tokens_a_second_and_what_memory() -> None:
    (line,) = told(RoundRecord(round=1, cohort=(0,), participants=(0,), training_loss=1.0, tokens=12_000))
    assert re.fullmatch(r"  round 1 of 9: [\d.]+ s, [\d,]+ tokens/s(, \d+\.\d\d GiB)?", line)


def test_questions_tell_where_they_are_and_what_they_found() -> None:
    text = StringIO()
    lines = PlainLines(Console(file=text, width=200))
    for number in (1, 2, 3):
        lines.progress("parity: changes of public examples", number, 3)
    share, control = (Interval(value=value, low=None, high=None, n=20) for value in (0.8, 0.45))
    own = Finding(question="attributes", label="norms (parity)", metric="attribute_balanced_accuracy", chance_level=0.5)
    lines.report_finding(own.model_copy(update={"value": share}))
    lines.report_finding(
        own.model_copy(
            update={"value": control, "label": "norms (parity), values permuted", "role": "negative-control"}
        )
    )
    lines.report_finding(own.model_copy(update={"failure": "it is empty"}))
    lines.report_finding(own.model_copy(update={"role": "context", "note": "greedy wrote.", "chance_level": None}))
    assert text.getvalue().splitlines() == [
        "    parity: changes of public examples 1 of 3",
        "  norms (parity): read right 80%, n = 20, chance 50%",
        "  norms (parity), values permuted (negative-control): read right 45%, n = 20, chance 50%",
        "  norms (parity): failed: it is empty",
        "  norms (parity) (context): greedy wrote.",
    ]


def shown(bars: LiveBars, width: int) -> list[str]:
    """Return the rows of the live display."""
    text = StringIO()
    Console(file=text, width=width).print(bars._progress.get_renderable())
    return [row.rstrip() for row in text.getvalue().splitlines() if row.strip()]


FAILED = VictimRecord(round=1, client=0, failure="it is empty")
STEP = Step(0, 20, 300, 1e-3, 1e-3, torch.zeros(1))


@pytest.mark.parametrize("width", [36, 50, 120])
def test_the_bar_of_an_attack_goes_with_its_last_update_in_a_terminal_of_any_width(width: int) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=width, height=30)
    with open_display(console) as bars:
        assert isinstance(bars, LiveBars)
        bars.arm("all", 1, 1, 9)
        for victim in (1, 2, 3, 4):
            bars.attack("closed form [with a long name]", victim, 4)(STEP)
            row, iterations, rounds = shown(bars, width)
            assert row.startswith("closed")
            assert f" {victim - 1}/4 " in row
            assert " 20/300 " in iterations
            assert " 0/9 " in rounds
            bars.report_victim("closed form", FAILED)
            if victim < 4:
                assert f" {victim}/4 " in shown(bars, width)[0]
        assert len(shown(bars, width)) == 1
        bars.progress("members", 2, 3)
        assert [" 1/3 " in row for row in shown(bars, width)] == [True, False]


def test_the_bars_of_an_attack_that_a_deadline_ends_go_with_the_finding() -> None:
    with open_display(Console(file=StringIO(), force_terminal=True, width=50, height=30)) as bars:
        assert isinstance(bars, LiveBars)
        bars.arm("all", 1, 1, 9)
        bars.attack("closed form", 3, 4)(STEP)
        assert len(shown(bars, 50)) == 3
        bars.report_finding(
            Finding(question="attributes", label="norms", metric="attribute_balanced_accuracy", failure="it is empty")
        )
        assert len(shown(bars, 50)) == 1
