"""One drawing, one attack: every attacker against every defense."""

from typing import Any

import pytest
import torch

from fedsim.demo.attempt import ViewerOrder, _encode_guess, attempt
from fedsim.demo.victim import SIDE, world_around
from tests.demo.drawings import ORDER


@pytest.mark.parametrize("attacker", ["ignores", "knows", "exact"])
@pytest.mark.parametrize("protection", ["none", "noise", "pruning", "precode"])
def test_every_attacker_meets_every_defense(attacker: str, protection: str) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    order = ViewerOrder.model_validate({**ORDER, "attacker": attacker, "setting": {"protection": protection}})
    attempt(order, 2, lambda *event: events.append(event))
    ends = [about["attacker"] for event, about in events if event in ("result", "failure")]
    assert ends == ["exact"] + [attacker] * (attacker != "exact")


def test_steps_are_shown_in_256_shades() -> None:
    order = ViewerOrder.model_validate(ORDER)
    image = torch.tensor(order.pixels).reshape(SIDE, SIDE) / 255.0
    world = world_around(image, order.label, order.setting)
    spec = world.data.dataset.spec
    shades = torch.linspace(0.0, 1.0, SIDE * SIDE).reshape(1, 1, SIDE, SIDE)
    guess = (shades - torch.tensor(spec.mean).view(1, -1, 1, 1)) / torch.tensor(spec.std).view(1, -1, 1, 1)
    shown = _encode_guess(world, shades, guess)
    assert shown["pixels"] == [round(255 * number / (SIDE * SIDE - 1)) for number in range(SIDE * SIDE)]
    assert shown["psnr"] > 100.0  # the guess is the image, up to the rounding of its normalisation
