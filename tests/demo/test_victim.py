"""The demo's client and its attackers."""

import pytest
import torch

from fedsim.demo.victim import Protection, Setting, attack_of, name_of, observe_client, world_around, world_of
from tests.demo.drawings import STROKES


def test_the_client_owns_the_drawing_and_nothing_else() -> None:
    world = world_around(torch.tensor(STROKES).reshape(28, 28) / 255, 3, Setting(rate=0.25))
    _, truth = observe_client(world, "ignores")
    assert truth.batches[0].labels.tolist() == [3]
    spec = world.data.dataset.spec
    pixels = truth.batches[0].inputs * spec.std[0] + spec.mean[0]
    assert torch.allclose(pixels.flatten() * 255, torch.tensor(STROKES, dtype=torch.float32), atol=1e-3)
    assert len(world.data.dataset.train) == 1


def test_the_buttons_search_alike_and_the_exact_one_depends_on_the_batch() -> None:
    names = [name_of(attacker, 1) for attacker in ("ignores", "estimates", "knows", "exact")]
    assert len({*names}) == 4
    assert name_of("exact", 1) != name_of("exact", 2)
    searches = [attack_of(attacker, 1, 30).config.model_dump() for attacker in ("ignores", "estimates", "knows")]
    for key in ("max_iterations", "schedule", "sign"):
        assert len({own[key] for own in searches}) == 1
    assert type(attack_of("exact", 2, 30)).__name__ == "SparseDictionary"


@pytest.mark.parametrize("protection", ["none", "noise", "pruning", "precode"])
def test_a_setting_is_one_world_and_only_who_knows_is_told_the_masks(protection: Protection) -> None:
    setting = Setting(rate=0.5, protection=protection)
    world = world_of(setting)
    assert world_of(Setting(rate=0.5, protection=protection)) is world
    assert len(world.stack.defenses) == {"none": 0, "noise": 2}.get(protection, 1)
    told, truth = observe_client(world, "knows")
    ignorant, _ = observe_client(world, "estimates")
    assert ignorant.masks is None
    assert all(torch.equal(own, other) for own, other in zip(told.masks[0], truth.masks[0], strict=True))
