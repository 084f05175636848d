"""Commitments differ in every part of what they are of, and so by one bit of the value."""

import hashlib

from fedsim.privacy.secure_aggregation.commitments import DIGEST_BYTES, commit


def test_a_commitment_changes_with_each_argument_and_each_bit_of_the_value():
    value = bytes(range(66))
    arguments = [
        ("self-mask", 1, 2, 3, value),
        ("mask key", 1, 2, 3, value),
        ("mask of values", 1, 2, 3, value),
        ("self-mask", 2, 2, 3, value),
        ("self-mask", 1, 3, 3, value),
        ("self-mask", 1, 2, 0, value),
        ("self-mask", 12, 2, 3, value),
        ("self-mask", 1, 22, 3, value),
    ]
    arguments += [("self-mask", 1, 2, 3, value[:i] + bytes([value[i] ^ 1]) + value[i + 1 :]) for i in range(66)]
    digests = [commit(*each) for each in arguments]
    assert {len(digest) for digest in digests} == {DIGEST_BYTES}
    assert len(set(digests)) == len(digests)


def test_a_commitment_is_the_digest_of_a_label_and_the_value():
    label = b"fedsim secure aggregation/commitment/mask key/7/4/5/"
    assert commit("mask key", 7, 4, 5, b"value") == hashlib.sha256(label + b"value").digest()
