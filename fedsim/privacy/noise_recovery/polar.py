"""Positions of Gaussian values in the output stream of NumPy's legacy generator, and the bits that they show.

The polar method of ``RandomState`` draws attempts (x1, x2), uniform in the square from -1 to 1, until one lies in the
unit circle, and returns f x2, then f x1. An attempt is four outputs of MT19937: 27 leading bits of x1 come from the
first, of x2 from the third. A fraction of 1 - pi / 4 of the attempts is rejected, so the number of the attempt behind a
value is unknown.

Bits of three distant outputs decide it. The recurrence of MT19937, applied to itself, has no middle term in 30 of 32
bits: x[k + 1246] = x[k + 792] ^ C C x[k], where C is the twist of the lower 31 bits. These three words belong to
attempts i, i + 198 and i + 311 (x1, x1, x2), or to i, i + 198 and i + 312 (x2, x2, x1). Values whose bits satisfy all
relations between such attempts are a link: their distances in attempts are known. Chance satisfies them with
probability 2^-22.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEPTH = 22
"""Leading bits of a uniform that relations read: values must be exact to about 2^-23."""

OUTPUTS = 4
"""Outputs of the generator in an attempt."""

ACCEPTED = math.pi / 4
"""Probability that an attempt is accepted."""

# Relations between outputs k, k + 792 and k + 1246, found by elimination: the parity of `first` & y[k],
# `later` & y[k + 792] and `later` & y[k + 1246] together is even. They are independent, and all that read only the
# leading 22 bits.
RELATIONS = (
    (0x93042800, 0x4CD10000),
    (0xC2247800, 0x38999C00),
    (0x02240800, 0x48998000),
    (0x00008000, 0x80002000),
    (0x48101000, 0x12000400),
    (0x10204000, 0x64081800),
    (0x22240800, 0x40898000),
    (0x0A35D800, 0x0AB99400),
    (0x8F2EC800, 0x9B9FBC00),
    (0x02040800, 0x08910000),
    (0xEF2ED000, 0x0A9CB800),
)
MIDDLE, LAST = 198, 311
"""Attempts between the outputs of a relation."""

_FROM_FIRST = range(round(MIDDLE * ACCEPTED) - 20, round(MIDDLE * ACCEPTED) + 21)  # pairs: 3.5 standard deviations
_FROM_MIDDLE = range(round((LAST - MIDDLE) * ACCEPTED) - 15, round((LAST - MIDDLE) * ACCEPTED) + 16)
_NEAR = 8  # pairs between links that support each other
_DRIFT = 2  # largest difference of their distances, in pairs
_AGREES = 0.1  # largest residual of consistent steps, in attempts
_ITERATIONS = 300
_SUPPORT = 2  # other links that a link needs: true links come in groups


@dataclass(frozen=True)
class Placed:
    """Pairs of values at known attempts, both of shape (n,).

    Attributes:
        pairs: indices of the pairs, ascending.
        attempts: attempt of each pair; that of the first pair is 0.
    """

    pairs: NDArray[np.intp]
    attempts: NDArray[np.intp]


def uniforms(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the uniforms in [0, 1) behind pairs of values of variance 1, as x1 and x2.

    Args:
        z: values, (n, 2), in the order of the draws.

    Returns:
        (2, n).
    """
    size = np.maximum(np.hypot(z[:, 0], z[:, 1]), np.finfo(np.float64).tiny)
    # f = size / r and r^2 = exp(-size^2 / 2), where r is the distance of the point from the centre
    points = z[:, ::-1].T / size * np.exp(-(size**2) / 4)
    return np.clip((points + 1) / 2, 0.0, np.nextafter(1.0, 0.0))


def place(z: NDArray[np.float64]) -> Placed:
    """Return the pairs of values whose attempts follow from links, relative to each other.

    Values that are disturbed by an update have no links, and are left out. No pair is returned if there are no links.
    A single pair among thousands may be misplaced by chance; its equations then contradict the others.

    Args:
        z: pairs of values of variance 1, (n, 2), in the order of the draws.
    """
    links = _filter_links(_links(uniforms(z)))
    components = _Components(len(z))
    for first, second, distance in _consistent(_steps(links), len(z)).tolist():
        components.join(first, second, distance)
    placed = components.largest()
    # Half a link may hold by chance, and misplace a pair of which no other link knows.
    is_confirmed = np.bincount(np.append(links, links[:, 2] + 1), minlength=len(z))[placed.pairs] > 1
    pairs, attempts = placed.pairs[is_confirmed], placed.attempts[is_confirmed]
    return Placed(pairs, attempts - attempts[:1])


def _links(uniform: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return all links, (n, 3): a first pair, the pair 198 attempts later, and that 311 attempts later.

    The pair after the last of a link is 312 attempts later.
    """
    words = (uniform * 2.0**32).astype(np.uint32)
    first, later = (
        np.array([sum(_parity(word, masks[part]) << bit for bit, masks in enumerate(RELATIONS)) for word in words])
        for part in (0, 1)
    )
    width = len(RELATIONS)
    begin, middle = first[0] | first[1] << width, later[0] | later[1] << width
    end = later[1][:-1] | later[0][1:] << width
    found = [np.zeros((0, 3), np.intp)]
    count = len(begin)
    for to_middle in _FROM_FIRST:
        expected = begin[: max(count - to_middle, 0)] ^ middle[to_middle:]
        for to_last in _FROM_MIDDLE:
            last = to_middle + to_last
            seen = end[last:]
            hits = np.flatnonzero(expected[: len(seen)] == seen)
            found.append(np.stack([hits, hits + to_middle, hits + last], 1))
    return np.concatenate(found)


def _parity(words: NDArray[np.uint32], mask: int) -> NDArray[np.int32]:
    return (np.bitwise_count(words & np.uint32(mask)) & 1).astype(np.int32)


def _filter_links(links: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the links with near links of about the same distances."""
    links = links[np.argsort(links[:, 0], kind="stable")]
    distances = np.diff(links, axis=1)
    support = np.zeros(len(links), np.intp)
    for step in range(1, min(2 * _NEAR, len(links))):
        is_near = links[step:, 0] - links[:-step, 0] <= _NEAR
        agrees = is_near & (np.abs(distances[step:] - distances[:-step]) <= _DRIFT).all(1)
        support[step:] += agrees
        support[:-step] += agrees
    return links[support >= _SUPPORT]


def _steps(links: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return pairs with their distances in attempts, (n, 3): pair, later pair, distance."""
    first, middle, last = links.T
    parts = ((first, middle, MIDDLE), (first, last, LAST), (last, last + 1, 1))
    return np.concatenate([np.stack([a, b, np.full_like(a, distance)], 1) for a, b, distance in parts])


def _consistent(steps: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Return steps that all agree: one in some thousand links holds by chance in one of its two halves.

    A wrong step has the largest residual of the cycles that it closes. A pair that has a single step closes none: the
    step cannot be checked and is dropped.
    """
    while len(steps):
        degrees = np.bincount(steps[:, :2].ravel(), minlength=count)
        is_checked = (degrees[steps[:, :2]] > 1).all(1)
        if not is_checked.all():
            steps = steps[is_checked]
            continue
        residuals = _residuals(steps, count)
        if residuals.max() < _AGREES:
            break
        steps = steps[residuals < residuals.max() / 2]
    return steps


def _residuals(steps: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Return the absolute residuals of steps for the attempts that fit them best (conjugate gradients)."""

    def gradient(errors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.subtract(np.bincount(later, errors, count), np.bincount(earlier, errors, count), dtype=np.float64)

    earlier, later = steps[:, 0], steps[:, 1]
    errors = steps[:, 2].astype(np.float64)
    direction = slope = gradient(errors)
    for _ in range(_ITERATIONS):
        size = float(slope @ slope)
        if size < _AGREES**4:
            break
        change = direction[later] - direction[earlier]
        errors = errors - size / float(change @ change) * change
        slope = gradient(errors)
        direction = slope + float(slope @ slope) / size * direction
    return np.abs(errors)


class _Components:
    """Components of pairs whose attempts relative to each other are known (a union-find structure)."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))
        self._offsets = [0] * count  # attempts after the parent

    def join(self, first: int, second: int, distance: int) -> None:
        """Record that `second` comes `distance` attempts after `first`."""
        (root, offset), (other, other_offset) = self._root(first), self._root(second)
        if root != other:
            self._parents[other] = root
            self._offsets[other] = offset + distance - other_offset

    def largest(self) -> Placed:
        """Return the largest component; empty if no pairs were joined."""
        places = np.array([self._root(pair) for pair in range(len(self._parents))], np.intp).reshape(-1, 2)
        roots, counts = np.unique(places[:, 0], return_counts=True)
        if not len(counts) or counts.max() == 1:
            return Placed(np.zeros(0, np.intp), np.zeros(0, np.intp))
        pairs = np.flatnonzero(places[:, 0] == roots[counts.argmax()])
        attempts = places[pairs, 1]
        return Placed(pairs, attempts - attempts[0])

    def _root(self, pair: int) -> tuple[int, int]:
        """Return the root of a pair and its attempts after the root."""
        path: list[int] = []
        while self._parents[pair] != pair:
            path.append(pair)
            pair = self._parents[pair]
        offset = 0
        for node in reversed(path):
            offset += self._offsets[node]
            self._parents[node], self._offsets[node] = pair, offset
        return pair, offset


def is_accepted(uniform_pairs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether the polar method accepts attempts, (n, 2) uniforms in [0, 1)."""
    squared = np.square(2 * uniform_pairs - 1).sum(1)
    return (squared < 1) & (squared > 0)


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` that cover `count` pairs; each overlaps half of the next."""
    for start in range(0, max(count - size // 2, min(count, 1)), size // 2):
        yield slice(start, min(start + size, count))
