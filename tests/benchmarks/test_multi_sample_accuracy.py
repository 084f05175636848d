"""The benchmarks of multi-sample dropout in short."""

import math
from statistics import mean

import pytest

from benchmarks.multi_sample_accuracy import SAMPLES, trained
from benchmarks.multi_sample_gradient import PLACES, cosines, tangent


def test_the_noise_of_the_masks_falls_like_one_over_the_root_of_samples_where_all_layers_are_sampled() -> None:
    one, sixteen = (cosines(samples, PLACES["first layer on"], 20) for samples in (1, 16))
    assert mean(map(tangent, sixteen)) / mean(map(tangent, one)) == pytest.approx(1.0 / math.sqrt(16), rel=0.15)
    assert one == cosines(1, PLACES["last layer"], 20)  # with one sample it does not matter where samples begin


def test_a_tangent_is_that_of_the_angle() -> None:
    assert tangent(math.cos(0.7)) == pytest.approx(math.tan(0.7))


@pytest.mark.slow
def test_every_number_of_samples_learns_digits_and_depends_on_its_seed_alone() -> None:
    for samples in SAMPLES:
        first, again = trained(samples, 1, rounds=2), trained(samples, 1, rounds=2)
        losses = [own.training_loss for own in first]
        assert losses == [own.training_loss for own in again]
        assert losses[1] < losses[0]
        assert (first[-1].tested.get("test_accuracy") or 0.0) > 0.8
