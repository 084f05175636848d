"""The outlook that attacks on crafted units share."""

from fedsim.core import registry
from tests.federating import watched


def test_attacks_on_crafted_units_cost_the_same_and_differ_in_their_chance() -> None:
    observation, _, _ = watched()
    estimates = []
    for name in ("certified-bins", "measured-imprint", "trap-weights"):
        method = registry.get("attack", name)
        estimates.append(method.make(method.config()).outlook(observation))  # type: ignore[attr-defined]
    assert len({own.seconds for own in estimates}) == 1
    assert [own.chance for own in estimates] == [0.9, 0.7, 0.5]
    assert all("crafted units isolate examples" in own.reason for own in estimates)
