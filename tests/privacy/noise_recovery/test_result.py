"""What a recovery says of itself in one line, and when noise counts as the right one."""

import torch

from fedsim.privacy.noise_recovery.result import AGREES, ComputedNoise, UnknownNoise, concatenated, disagreement


def test_a_finding_names_generator_source_coordinates_and_seconds():
    result = ComputedNoise([], "MT19937", "state", 21_500, 20_437, 19_937, 0, 0.01, 12.4)
    assert str(result) == "the noise is computable (MT19937, state from 21,500 coordinates in 12 seconds)"
    assert str(UnknownNoise("too few values", 0.1)) == "the noise was not computed: too few values"


def test_unrelated_noise_disagrees_and_an_update_of_a_fifth_does_not():
    generator = torch.Generator().manual_seed(1)
    noise, other, update = (torch.randn(20_000, generator=generator) for _ in range(3))
    assert disagreement(noise + 0.2 * update, noise) < AGREES < 0.9 < disagreement(other, noise) < 1.0
    assert disagreement(torch.zeros(0), torch.zeros(0)) == float("inf")


def test_tensors_are_joined_in_order_as_float64():
    vector = concatenated([torch.ones(2, 1), torch.tensor(3.0)])
    assert (vector.tolist(), vector.dtype) == ([1.0, 1.0, 3.0], torch.float64)
