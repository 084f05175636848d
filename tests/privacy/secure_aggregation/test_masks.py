"""Masks are the stream of the standard, and uniform."""

import pytest
import torch
from scipy.stats import chisquare

from fedsim.privacy.secure_aggregation.keys import derive_secret
from fedsim.privacy.secure_aggregation.masks import mask


def test_masks_are_the_stream_of_the_standard():
    """RFC 8439, appendix A.1, test vector 1: key, counter and nonce 0."""
    stream = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    words = [int.from_bytes(stream[i : i + 4], "little") for i in range(0, 32, 4)]
    assert mask(bytes(32), 8, 32).tolist() == words
    assert mask(bytes(32), 8, 20).tolist() == [word % 2**20 for word in words]
    long_words = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, 32, 8)]
    assert mask(bytes(32), 4, 62).tolist() == [word % 2**62 for word in long_words]


def test_the_whole_key_counts():
    """Two keys that are the same after an XOR of their words, as Flower folds them to 32 bits."""
    first = bytes(range(32))
    swapped = first[4:8] + first[:4] + first[8:]
    assert not torch.equal(mask(first, 50, 32), mask(swapped, 50, 32))


@pytest.mark.parametrize("bits", [8, 32, 33, 62])
def test_masks_are_uniform(bits):
    values = mask(derive_secret(3, "self-mask", 1, 1), 64_000, bits)
    assert chisquare(torch.bincount(values >> (bits - 6), minlength=64).numpy()).pvalue > 1e-3
    assert chisquare(torch.bincount(values & 63, minlength=64).numpy()).pvalue > 1e-3
