"""Secret sharing against Lagrange interpolation written out in fractions of the field."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.shamir import PRIME, SECRET_BYTES, SHARE_BYTES, Share, reconstruct, shares

SECRETS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


def polynomial_at(known: dict[int, int], x: int) -> int:
    """The polynomial of least degree through `known`, at x."""
    value = 0
    for i, y in known.items():
        term = y
        for j in known:
            if j != i:
                term = term * (x - j) * pow(i - j, PRIME - 2, PRIME) % PRIME
        value += term
    return value % PRIME


def as_shares(values: dict[int, bytes]) -> list[Share]:
    return [Share(point, value) for point, value in values.items()]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), secret=SECRETS, randomness=SECRETS, threshold=st.integers(1, 12))
def test_any_threshold_of_the_shares_give_the_secret(data, secret, randomness, threshold):
    points = data.draw(st.lists(st.integers(1, 10_000), min_size=threshold, max_size=threshold + 6, unique=True))
    values = shares(secret, threshold, points, randomness)
    chosen = data.draw(st.permutations(as_shares(values)))[: data.draw(st.integers(threshold, len(points)))]
    assert reconstruct(chosen, threshold) == secret


@settings(deadline=None, max_examples=40)
@given(secret=SECRETS, candidate=SECRETS, randomness=SECRETS, threshold=st.integers(2, 8))
def test_fewer_shares_fit_every_secret(secret, candidate, randomness, threshold):
    """One share short, each candidate has a last share that completes a polynomial of the right degree."""
    too_few = shares(secret, threshold, range(1, threshold), randomness)
    through = {0: int.from_bytes(candidate)} | {point: int.from_bytes(value) for point, value in too_few.items()}
    last = polynomial_at(through, threshold).to_bytes(SHARE_BYTES)
    assert reconstruct([*as_shares(too_few), Share(threshold, last)], threshold) == candidate


@settings(deadline=None, max_examples=40)
@given(secret=SECRETS, randomness=SECRETS, threshold=st.integers(2, 8))
def test_one_share_short_interpolation_gives_another_secret(secret, randomness, threshold):
    """A polynomial of a lower degree would give it; one of the right degree does with probability 2**-521."""
    values = shares(secret, threshold, range(1, threshold), randomness)
    through = {point: int.from_bytes(value) for point, value in values.items()}
    assert polynomial_at(through, 0) != int.from_bytes(secret)


@settings(deadline=None, max_examples=8)
@given(secret=SECRETS, randomness=SECRETS, threshold=st.integers(1, 8))
def test_shares_lie_on_a_polynomial_of_degree_threshold_minus_one(secret, randomness, threshold):
    values = {p: int.from_bytes(v) for p, v in shares(secret, threshold, range(1, threshold + 4), randomness).items()}
    through = {0: int.from_bytes(secret)} | {point: values[point] for point in range(1, threshold)}
    assert [polynomial_at(through, point) for point in values] == list(values.values())


def test_every_bit_of_every_coefficient_is_a_fair_coin():
    """Where the secret is 0, shares at 1 and 2 give both coefficients of a parabola. Six standard deviations."""
    draws, half = 400, pow(2, -1, PRIME)
    ones = [[0] * 521, [0] * 521]
    for seed in range(draws):
        values = shares(bytes(32), 3, [1, 2], seed.to_bytes(4))
        one, two = (int.from_bytes(values[point]) for point in (1, 2))
        square = (two - 2 * one) * half % PRIME
        for counts, coefficient in zip(ones, (square, (one - square) % PRIME), strict=True):
            for bit in range(521):
                counts[bit] += coefficient >> bit & 1
    assert all(abs(count - draws / 2) < 6 * math.sqrt(draws) / 2 for counts in ones for count in counts)


def test_the_randomness_decides_the_shares():
    secret = bytes(range(32))
    first, again, other = (shares(secret, 3, [1, 2, 3], bytes([seed] * 32)) for seed in (1, 1, 2))
    assert first == again
    assert all(first[point] != other[point] for point in first)


def test_a_secret_needs_its_threshold():
    values = as_shares(shares(bytes(32), 4, [1, 2, 3, 4, 5], b"r"))
    with pytest.raises(FedsimError, match="3 shares cannot open a secret that needs 4"):
        reconstruct(values[:3], 4)


def test_a_share_counts_once():
    values = as_shares(shares(bytes(32), 3, [1, 2, 3], b"r"))
    with pytest.raises(FedsimError, match="expected a single share per point"):
        reconstruct([*values[:2], values[0]], 3)


def test_a_share_of_another_polynomial_is_noticed():
    """What comes out is a random element of the field: 32 bytes with probability 2**-265."""
    values = as_shares(shares(bytes(32), 3, [1, 2, 3], b"r"))
    values[1] = as_shares(shares(bytes(32), 3, [1, 2, 3], b"s"))[1]
    with pytest.raises(FedsimError, match="do not belong to the same secret"):
        reconstruct(values, 3)


def test_the_largest_secret_opens_and_the_number_above_it_is_none():
    largest = (1 << 8 * SECRET_BYTES) - 1
    assert reconstruct([Share(1, largest.to_bytes(SHARE_BYTES))], 1) == bytes([255] * SECRET_BYTES)
    with pytest.raises(FedsimError, match="do not belong to the same secret"):
        reconstruct([Share(1, (largest + 1).to_bytes(SHARE_BYTES))], 1)


@pytest.mark.parametrize("points", [[1, 1, 2], [0, 1, 2]])
def test_points_are_different_and_not_where_the_secret_lies(points):
    with pytest.raises(FedsimError, match="different points from 1"):
        shares(bytes(32), 2, points, b"r")


@pytest.mark.parametrize(("secret", "threshold"), [(bytes(31), 2), (bytes(32), 0)])
def test_what_cannot_be_shared(secret, threshold):
    with pytest.raises(FedsimError, match="a secret of 32 bytes and a threshold of at least 1"):
        shares(secret, threshold, [1, 2], b"r")
