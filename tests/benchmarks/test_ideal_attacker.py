"""The experiment of the ideal attacker has rows for an arm, or says where it is not defined."""

from collections.abc import Callable

from benchmarks.ideal_attacker import rows
from fedsim.scenario import Scenario


def test_an_arm_has_its_ceiling_or_why_there_is_none(scenario: Callable[..., Scenario]) -> None:
    model = {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.0}
    ceiling, recovered, known = rows("plain", scenario(model=model), 2)
    assert ceiling.value > 60
    assert ceiling.note.endswith(" of 64")
    assert (recovered.value, recovered.n, known.n) == (1.0, 2, 2)
    (undefined,) = rows("signs", scenario(model=model, defenses=[{"name": "sign"}]), 1)
    assert (undefined.n, undefined.note) == (0, "not defined for sign")
