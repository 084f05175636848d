"""The weight and the partners of MixUp, searched along with the data."""

import pytest

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from tests.attacks.defended import attacked
from tests.attacks.solving import attack_named
from tests.federating import watched

ALL = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")


@pytest.mark.slow
def test_mixup_stops_the_naive_attacker_and_not_the_one_who_searches_the_weight() -> None:
    """Client 2 draws a swapped pair; a batch whose partners are the examples themselves is not mixed at all."""
    naive, _ = attacked("inverting-gradients", "mixup", batch=2, client=2)
    informed, found = attacked("mixup-inversion", "mixup", batch=2, client=2)
    assert naive < 30
    assert informed > 50
    assert "partners [1, 0]" in found.notes[-1]
    assert found.diagnostics["weight"] == pytest.approx(0.117, abs=0.01)


def test_large_batches_have_too_many_pairings() -> None:
    observation, _, _ = watched(knows=ALL, defenses=[{"name": "mixup"}], federation={"batch_size": 5})
    with pytest.raises(NotApplicable, match="paired in 120 ways"):
        attack_named("mixup-inversion")(observation, seeding.generator(1, "attack"))
