"""One drawing, one attack: every attacker against every defense."""

from typing import Any

import pytest

from fedsim.demo.attempt import Order, attempt
from tests.demo.drawings import ORDER


@pytest.mark.parametrize("attacker", ["ignores", "knows", "exact"])
@pytest.mark.parametrize("protection", ["none", "noise", "pruning", "precode"])
def test_every_attacker_meets_every_defense(attacker: str, protection: str) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    order = Order.model_validate({**ORDER, "attacker": attacker, "setting": {"protection": protection}})
    attempt(order, 2, lambda *event: events.append(event))
    ends = [about["attacker"] for event, about in events if event in ("result", "failure")]
    assert ends == ["exact"] + [attacker] * (attacker != "exact")
