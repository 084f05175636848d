"""What an audit prints."""

import io

from rich.console import Console

from fedsim.audit import console as screen
from fedsim.audit import table_cells
from fedsim.judgement.policy import Policy
from tests.audit.findings import attacked, defended, failed, membership, record, shown


def test_a_batch_size_that_failed_stands_with_its_reason_and_the_others_with_their_counts() -> None:
    text = shown(record(Policy(), client=(attacked(3), failed("too many"))))
    assert "75 (30 to 95) %" in text
    assert "too many" in text


def test_membership_attacks_are_rows_and_a_failed_attack_has_no_figure() -> None:
    lost = membership(0.2, label="rmia", failure="no shadows")
    text = shown(record(Policy(), findings=(membership(0.2), membership(0.3, low=0.2, label="calibrated"), lost)))
    rows = {name: line for line in text.splitlines() for name in ("lira", "calibrated", "rmia") if name in line}
    assert "20.0%" in rows["lira"]
    assert "30.0%" in rows["calibrated"]
    assert "failed" in rows["rmia"]
    assert "%" not in rows["rmia"]


def test_a_defense_that_failed_is_undecided_and_the_control_comes_first() -> None:
    broken = defended("ats", 0, 0.0).model_copy(
        update={"failure": "its 3 s were not enough", "findings": (), "cost": None}
    )
    text = shown(record(Policy(max_recovered=0.1), tried=(broken, defended("noise", 0, 0.01))))
    control, rest = text.index("none (control)"), text.index("noise")
    assert control < rest < text.index("its 3 s were not enough")
    assert "not attacked" in text
    assert "1.0 (0.0 to 2.0)" in text
    assert table_cells.format_policy_state(record(Policy(), tried=()), defended("noise", 0, 0.0)) == "no policy"


def told_in_a_pipe(steps: list[tuple[str, float]]) -> list[str]:
    out = io.StringIO()
    with screen.counting(Console(file=out, force_terminal=False, width=80)) as tell:
        for what, left in steps:
            tell(what, left)
    return out.getvalue().splitlines()


def test_progress_in_a_pipe_is_a_line_a_quarter_of_the_time() -> None:
    lines = told_in_a_pipe([(f"step {number}", 180.0 - number) for number in range(180)])
    assert lines == [
        f"{left} left  step {step}" for left, step in (("3:00", 0), ("2:15", 45), ("1:30", 90), ("0:45", 135))
    ]


def test_a_suggestion_is_printed_once_and_the_countdown_never_jumps_back() -> None:
    hint = "For stronger evidence give --minutes 9."
    steps = [("starts", 60.0), (hint, 50.0), (hint, 49.0), ("trains", 40.0), ("waits", 55.0), ("attacks", 57.0)]
    assert told_in_a_pipe(steps) == ["1:00 left  starts", hint, "0:40 left  trains"]
    out = io.StringIO()
    with screen.counting(Console(file=out, force_terminal=True, width=80)) as tell:
        tell("starts", 40.0)
        tell("attacks", 55.0)
    assert "0:55" not in out.getvalue()


def test_what_was_understood_stays_on_a_terminal() -> None:
    out = io.StringIO()
    with screen.counting(Console(file=out, force_terminal=True, width=80)) as tell:
        tell("Understood: a peft model.", 60.0)
        tell("attacks", 50.0)
    assert "Understood: a peft model.\n" in out.getvalue()
