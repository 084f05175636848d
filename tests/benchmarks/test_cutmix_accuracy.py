"""The end-to-end experiment in short: what holds whatever its direction."""

import pytest

from benchmarks.cutmix_accuracy import TRAININGS, trained


@pytest.mark.slow
def test_every_training_learns_digits_and_depends_on_its_seed_alone() -> None:
    for name in TRAININGS:
        first, again = trained(name, 1, epochs=8), trained(name, 1, epochs=8)
        assert first == again
        assert first.test > 60
        assert first.train > 60
