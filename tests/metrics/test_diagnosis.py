"""Why a reconstruction is bad: each sentence for its cause, and none without one."""

from typing import Any

import pytest

from fedsim.metrics import diagnosis as diagnosing
from fedsim.metrics.diagnosis import diagnosis


def told(**changes: Any) -> str:
    known = {"objective": 1e-7, "at_truth": 1e-8, "diagnostics": {}, "batch_size": 4, "wrong_labels": 0}
    return " | ".join(diagnosis(**{**known, **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": 0.2}, "the search did not arrive: objective 2.0e-01 at the guess, 1.0e-08 at the truth"),
        ({"at_truth": 0.3, "objective": 0.2}, "even the true batch leaves an objective of 3.0e-01"),
        ({}, "the guess explains the gradient as well as the truth (1.0e-07)"),
        ({"diagnostics": {"starts": 8, "starts that reached the lowest objective": 2}}, "2 of 8 starts reached"),
        ({"diagnostics": {"starts": 2, "starts that reached the lowest objective": 1}}, "1 of 2 starts reached"),
        ({"diagnostics": {"starts": 3}}, "1 of 3 starts reached"),
        ({"objective": 1.05e-3, "at_truth": 1e-4}, "the search did not arrive"),  # more than ten times the truth's
        ({"objective": 0.95e-3, "at_truth": 1e-4}, "the guess explains the gradient as well as the truth"),
        ({"objective": diagnosing._MATCHED, "at_truth": 0.0}, "the guess explains the gradient as well as the truth"),
        ({"diagnostics": {"numerical rank": 3}}, "numerical rank 3 of the first gradient is below the batch size 4"),
        ({"diagnostics": {"condition number": 1e6}}, "condition number 1.0e+06"),
        ({"wrong_labels": 2}, "2 of 4 labels are wrong"),
    ],
)
def test_each_cause_has_its_sentence(changes: dict[str, Any], words: str) -> None:
    assert words in told(**changes)


def test_nothing_is_said_that_nothing_shows() -> None:
    assert (
        diagnosis(objective=0.1, at_truth=None, diagnostics={"numerical rank": 4}, batch_size=4, wrong_labels=0) == ()
    )
    assert "rank" not in told(diagnostics={"numerical rank": 4, "condition number": 3.0, "starts": 1})
    assert "condition" not in told(diagnostics={"condition number": diagnosing._ILL_CONDITIONED})
