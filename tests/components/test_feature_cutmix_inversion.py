"""The Feature CutMix benchmark: its victims were mixed, and every attacker of it runs."""

import pytest

from benchmarks.feature_cutmix import ATTACKERS, CLIENTS, PLAIN, _is_mixed, decibels, world_of
from fedsim.client import local_training


def test_only_batches_whose_maps_were_mixed_count() -> None:
    world = world_of("second")
    draws = [local_training(world, world.first_weights, 1, client)[1].draws[0] for client in range(CLIENTS)]
    mixed = [own for own in draws if _is_mixed(own)]
    assert 5 <= len(mixed) < CLIENTS
    assert all(0.1 < float(share) < 0.9 for own in mixed for share in own["feature-cutmix.weights"])


@pytest.mark.parametrize(("place", "words"), [(None, ""), *(("second", words) for words in ATTACKERS)])
def test_a_figure_depends_on_its_seed_alone(place: str | None, words: str) -> None:
    attacker = ATTACKERS.get(words, PLAIN)
    first, second = (decibels(place, attacker, 1, iterations=2) for _ in range(2))
    assert first == second
    assert len(first) == 1
