"""The Feature CutMix benchmark: its victims were mixed, what it counts is right, and every attacker of it runs."""

import pytest
import torch

from benchmarks.feature_cutmix import ATTACKERS, CLIENTS, PLAIN, _is_mixed, attacked, used_pixels, world_of
from fedsim.federation.client import local_training


def test_only_batches_whose_maps_were_mixed_count() -> None:
    world = world_of("second")
    draws = [local_training(world, world.models.first_weights, 1, client)[1].draws[0] for client in range(CLIENTS)]
    mixed = [draw for draw in draws if _is_mixed(draw)]
    assert 5 <= len(mixed) < CLIENTS
    assert all(0.1 < float(share) < 0.9 for own in mixed for share in own["feature-cutmix.weights"])


@pytest.mark.parametrize(("place", "words"), [(None, ""), *(("second", words) for words in ATTACKERS)])
def test_a_figure_depends_on_its_seed_alone(place: str | None, words: str) -> None:
    attacker = ATTACKERS.get(words, PLAIN)
    first, second = (attacked(place, attacker, 1, iterations=2) for _ in range(2))
    assert first == second
    (found,) = first
    if place is None:
        assert found.used == pytest.approx(found.whole, abs=1e-3)
        assert found.share == 1.0


def test_a_pixel_is_in_use_where_its_map_was_kept_or_pasted() -> None:
    boxes = torch.tensor([[0, 1, 0, 2], [1, 2, 0, 2]])  # the upper half of the first, the lower half of the second
    draws = {"feature-cutmix.map-boxes": boxes, "feature-cutmix.partners": torch.tensor([1, 0])}
    used = used_pixels(draws, (2, 2), 4)
    lower = torch.tensor([[False] * 4, [False] * 4, [True] * 4, [True] * 4])
    assert torch.equal(used[0], lower)
    assert torch.equal(used[1], ~lower)
    alike = used_pixels({**draws, "feature-cutmix.map-boxes": boxes[:1].expand(2, 4)}, (2, 2), 4)
    assert bool(alike.all())  # with one box for both nothing is lost
