"""Combine complete and incomplete guesses of a batch.

One attack may find a part of a batch and another attack the rest. Their union is kept if it explains the gradient
better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.batches import OrderedGuess

_SAME = 1e-2  # relative distance below which two guesses are the same example; exact attacks differ by less


class Union(NamedTuple):
    """A batch of examples from several guesses.

    Attributes:
        batch: the examples.
        sources: indices of the contributing guesses, the initial guess first.
    """

    batch: OrderedGuess
    sources: tuple[int, ...]


def unite(
    batches: Sequence[OrderedGuess], labels: Tensor, distance: Callable[[Tensor], float], *, swaps: bool
) -> Union:
    """Return the batch of examples from all guesses that explains the gradient best.

    Args:
        batches: the guesses, the best first.
        labels: label of each example.
        distance: gradient distance of a whole batch (B, *shape) from the observed gradient.
        swaps: whether to also try replacing found examples, at the cost of one distance for each swap.
    """
    best, least = Union(batches[0], (0,)), distance(batches[0].inputs)
    for begun, first in enumerate(batches):
        for index, batch in enumerate(batches):
            filled = _filled(first, batch, labels)
            if filled is not None and (reached := distance(filled.inputs)) < least:
                best, least = Union(filled, (begun, index)), reached
    for index, batch in enumerate(batches if swaps else ()):
        for example in batch.are_found.nonzero().flatten().tolist():
            for tried in _swapped(best.batch, batch.inputs[example], labels == labels[example]):
                if (reached := distance(tried.inputs)) < least:
                    best, least = Union(tried, tuple(dict.fromkeys((*best.sources, index)))), reached
                    break
    return best


def _filled(batch: OrderedGuess, guess: OrderedGuess, labels: Tensor) -> OrderedGuess | None:
    """Return a batch with missing examples filled by new examples of the other guess; None without new examples."""
    inputs, are_found = batch.inputs.clone(), batch.are_found.clone()
    for example in guess.are_found.nonzero().flatten().tolist():
        empty = (~are_found & (labels == labels[example])).nonzero().flatten()
        if len(empty) and not _is_among(guess.inputs[example], inputs[are_found]):
            inputs[empty[0]], are_found[empty[0]] = guess.inputs[example].to(inputs), True
    return None if torch.equal(are_found, batch.are_found) else OrderedGuess(inputs, None, are_found)


def _swapped(batch: OrderedGuess, example: Tensor, fits: Tensor) -> Iterator[OrderedGuess]:
    """Yield batches with an example in each position that fits its label; none if the batch contains it already."""
    if _is_among(example, batch.inputs[batch.are_found & fits]):
        return
    for place in fits.nonzero().flatten().tolist():
        inputs, are_found = batch.inputs.clone(), batch.are_found.clone()
        inputs[place], are_found[place] = example.to(inputs), True
        yield OrderedGuess(inputs, None, are_found)


def _is_among(example: Tensor, candidates: Tensor) -> bool:
    distances = (candidates - example.to(candidates)).flatten(1).norm(dim=1)
    return bool((distances < _SAME * example.norm()).any())
