"""The benchmark of the ideal attacker prints a row an arm, and says where it is not defined."""

from collections.abc import Callable

from benchmarks.ideal_attacker import row
from fedsim.scenario import Scenario


def test_a_row_has_the_ceiling_or_why_there_is_none(scenario: Callable[..., Scenario]) -> None:
    model = {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.0}
    told = row("plain", scenario(model=model), 2)
    assert told.startswith("| plain | ")
    assert " dB, 2 of 2 | " in told
    assert " of 64 | " in told
    assert row("signs", scenario(model=model, defenses=[{"name": "sign"}]), 1) == "| signs | not defined for sign | | |"
