"""Philox against the known answers of its authors, and torch's values on CUDA for a known seed."""

import numpy as np
import pytest
import torch

from fedsim.privacy.noise_recovery import philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "outputs"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, outputs):
    words = [[np.array([word], np.uint64) for word in part] for part in (counter, key)]
    assert [int(word[0]) for word in philox.philox(*words)] == list(outputs)


def test_the_first_values_of_seed_0_are_those_that_a_gpu_draws():
    (drawn,) = philox.draw_like([torch.empty(5)], 0, 40 * 1024)
    np.testing.assert_allclose(drawn, [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209], atol=5e-5)


def test_the_second_tensor_goes_on_at_the_next_counter():
    first, second = philox.draw_like([torch.empty(700), torch.empty(3)], 7, 1024)
    assert abs(float(first.mean())) < 0.15
    assert not set(second.tolist()) & set(first.tolist())


def test_more_values_than_threads_take_further_lanes_of_the_same_call():
    (few,) = philox.draw_like([torch.empty(512)], 3, 512)
    (many,) = philox.draw_like([torch.empty(3000)], 3, 512)
    assert torch.equal(few, many[:512])
    assert 0.9 < float(many.std()) < 1.1


def test_values_of_many_seeds_are_those_of_each():
    seeds = np.array([3, 1 << 40, 99], np.uint64)
    expected = [float(philox.draw_like([torch.empty(6, dtype=torch.float64)], int(seed), 1024)[0][4]) for seed in seeds]
    np.testing.assert_allclose(philox.first_normals(seeds, 4), expected)
