"""Relations hold for every state, and pairs of the polar method are placed where they were drawn."""

import os

import numpy as np
import pytest

from fedsim.privacy.noise_recovery import mersenne, polar


def drawn(seed, attempts):
    """Return pairs of values of NumPy's legacy generator, and the attempt of each."""
    uniform = np.random.RandomState(seed).random_sample((attempts, 2))
    accepted = np.flatnonzero(polar.is_accepted(uniform))
    return np.random.RandomState(seed).normal(size=(len(accepted), 2)), accepted, uniform


def parity(words, mask):
    return np.bitwise_count(words & np.uint32(mask)) & 1


@pytest.mark.parametrize("offset", [0, 2])
def test_relations_hold_for_every_state(offset):
    outputs = mersenne.outputs(np.frombuffer(os.urandom(4 * mersenne.WORDS), np.uint32), 5000)
    begin = np.arange(offset, 3000, polar.OUTPUTS)
    for first, later in polar.RELATIONS:
        total = parity(outputs[begin], first)
        total = total ^ parity(outputs[begin + polar.OUTPUTS * polar.MIDDLE], later)
        total = total ^ parity(outputs[begin + polar.OUTPUTS * polar.LAST + 2], later)
        assert not total.any()


def test_relations_are_independent_and_read_only_the_leading_bits():
    low = (1 << (32 - polar.DEPTH)) - 1
    assert all(not (first | later) & low for first, later in polar.RELATIONS)
    sums = {0}
    for first, later in polar.RELATIONS:
        sums |= {total ^ (first << 32 | later) for total in sums}
    assert len(sums) == 1 << len(polar.RELATIONS)


def test_uniforms_of_accepted_attempts_come_back():
    z, attempts, uniform = drawn(0x5EED1234, 500)
    np.testing.assert_allclose(polar.uniforms(z), uniform[attempts].T, rtol=0, atol=1e-12)


def test_accepted_attempts_lie_inside_the_circle():
    points = np.array([[0.5, 0.5], [0.5, 0.75], [0.0, 0.5], [0.001, 0.5], [0.9, 0.9], [0.85, 0.85]])
    assert polar.is_accepted(points).tolist() == [False, True, False, True, False, True]


@pytest.mark.parametrize("seed", [1_000_000, 1_000_002, 1_000_008, 1_000_012])  # all but the first have wrong links
def test_placed_pairs_stand_where_they_were_drawn(seed):
    z, attempts, _ = drawn(seed, 5000)
    placed = polar.place(z.astype(np.float32).astype(np.float64))
    assert len(placed.pairs) > 1900
    assert placed.attempts[0] == 0
    assert np.array_equal(placed.attempts, attempts[placed.pairs] - attempts[placed.pairs[0]])


def test_disturbed_pairs_are_left_out():
    z, attempts, _ = drawn(77_000_001, 6000)
    z[:600] += 1e-3
    placed = polar.place(z)
    assert placed.pairs.min() >= 600
    assert len(placed.pairs) > 1900
    distances = placed.attempts - attempts[placed.pairs]
    assert np.count_nonzero(distances != np.median(distances)) <= 1  # a pair may be misplaced by chance


def test_values_of_another_generator_have_no_places():
    z = np.random.default_rng(5).normal(size=(8000, 2))
    assert len(polar.place(z).pairs) == 0
    assert len(polar.place(z[:3]).pairs) == 0


def test_chunks_cover_all_pairs_and_overlap_by_half():
    assert [(c.start, c.stop) for c in polar.chunks(11, 4)] == [(0, 4), (2, 6), (4, 8), (6, 10), (8, 11)]
    assert [(c.start, c.stop) for c in polar.chunks(4, 4)] == [(0, 4)]
    assert [(c.start, c.stop) for c in polar.chunks(1, 4)] == [(0, 1)]
    assert list(polar.chunks(0, 3)) == []
