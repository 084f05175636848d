"""What a recovery says of itself in one line, and when noise counts as the right one."""

import math

import pytest
import torch

from fedsim.privacy.noise_recovery.result import (
    AGREES,
    ComputedNoise,
    UnknownNoise,
    disagreement,
    fits,
    fitting_part,
    flatten_tensors,
)


def drawn(*sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in sizes]


def test_a_finding_names_generator_source_coordinates_and_seconds():
    result = ComputedNoise([], "MT19937", "state", 21_500, 20_437, 19_937, 0, 0.01, 12.4)
    assert str(result) == "the noise is computable (MT19937, state from 21,500 coordinates in 12 seconds)"
    assert str(UnknownNoise("too few values", 0.1)) == "the noise was not computed: too few values"


def test_a_partial_finding_says_its_fraction_and_never_rounds_it_up_to_all():
    partial = ComputedNoise([], "MT19937", "state", 21_500, 20_437, 19_937, 0, 0.01, 12.4, fraction=0.99996)
    assert not partial.is_complete
    assert "the noise of 99.9 % of the values is computable (MT19937, state from 21,500 coordinates" in str(partial)
    assert "another order" in str(partial)
    assert ComputedNoise([], "MT19937", "seed 3", 40, 0, 0, 0, 0.0, 1.0).is_complete


@pytest.mark.parametrize("seed", range(20))
def test_each_tensor_fits_its_own_noise_and_no_other_even_under_a_large_update(seed):
    noise, other = drawn(64, 100, 3000, seed=seed), drawn(64, 100, 3000, seed=1000 + seed)
    update = drawn(64, 100, 3000, seed=2000 + seed)
    values = [n + 1.5 * u for n, u in zip(noise, update, strict=True)]
    assert fits(noise, [noise[0], other[1], noise[2]]) == [True, False, True]
    assert fits(noise, [other[0], noise[1], other[2]]) == [False, True, False]
    assert fits(values[2:], noise[2:]) == [True]
    assert fits([0.4 * n for n in noise], noise) == [False] * 3
    assert fits([0.6 * n for n in noise], noise) == [True] * 3


@pytest.mark.parametrize("seed", range(5))
def test_small_tensors_are_judged_together(seed):
    noise, other = drawn(1, 500, 39, 63, seed=seed), drawn(1, 500, 39, 63, seed=1000 + seed)
    assert fits(noise, [noise[0], other[1], *noise[2:]]) == [True, False, True, True]
    assert fits(noise, [other[0], noise[1], *other[2:]]) == [False, True, False, False]
    assert fits(noise, [other[0], *noise[1:]]) == [True] * 4


def test_tensors_of_64_values_are_judged_alone_and_of_63_together():
    for size, alone in ((64, [True, False, True]), (63, [True] * 3)):
        noise, other = drawn(size, size, size), drawn(size, size, size, seed=2)
        assert fits(noise, [noise[0], other[1], noise[2]]) == alone


def test_less_than_eight_values_in_small_tensors_follow_the_others():
    noise, other = drawn(3, 500, 4, 200), drawn(3, 500, 4, 200, seed=2)
    assert fits(noise, [other[0], noise[1], other[2], noise[3]]) == [True] * 4
    assert fits(noise, [*noise[:3], other[3]]) == [False, True, False, False]
    eight, others = drawn(8, 300), [-drawn(8)[0], drawn(8, 300)[1]]
    assert fits(eight, others) == [False, True]


def test_the_fitting_part_is_0_elsewhere_and_counts_values():
    noise, other = drawn(100, 300, 600), drawn(100, 300, 600, seed=2)
    part = fitting_part(noise, [noise[0], other[1], noise[2]])
    assert part.fits == [True, False, True]
    assert part.fraction == pytest.approx(0.7)
    assert math.isclose(float(part.noise[1].abs().max()), 0.0)
    assert torch.equal(part.noise[2], noise[2])
    assert fitting_part(noise, noise).fraction == 1.0
    assert fitting_part(noise, other).fraction == 0.0


def test_unrelated_noise_disagrees_and_an_update_of_a_fifth_does_not():
    generator = torch.Generator().manual_seed(1)
    noise, other, update = (torch.randn(20_000, generator=generator) for _ in range(3))
    assert disagreement(noise + 0.2 * update, noise) < AGREES < 0.9 < disagreement(other, noise) < 1.0
    assert disagreement(torch.zeros(0), torch.zeros(0)) == float("inf")


def test_tensors_are_joined_in_order_as_float64():
    vector = flatten_tensors([torch.ones(2, 1), torch.tensor(3.0)])
    assert (vector.tolist(), vector.dtype) == ([1.0, 1.0, 3.0], torch.float64)
