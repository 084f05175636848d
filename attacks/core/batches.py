"""Complete a partial guess to a whole batch, since only whole batches have a gradient to compare."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.results import blanks
from fedsim.core.types import Masks, Observation, Reconstruction


class OrderedGuess(NamedTuple):
    """A guess as a whole batch, in the order of the labels if the guess has the same labels.

    Attributes:
        inputs: shape (B, *shape); zeros for examples that were not recovered.
        masks: masks of all examples, or None.
        are_found: True for recovered examples, shape (B,).
    """

    inputs: Tensor
    masks: Masks | None
    are_found: Tensor


def order_guess(observation: Observation, guess: Reconstruction, labels: Tensor) -> OrderedGuess:
    """Return a guess as a whole batch of B examples, B being the number of labels.

    Examples are sorted to match `labels` and missing examples are zero. Labels of several entries give no order:
    examples stay in the order of the guess.

    Args:
        observation: gives the shape of an example.
        guess: at most B examples.
        labels: shape (B, ...).
    """
    made, missing = len(guess.inputs), len(labels) - len(guess.inputs)
    inputs = torch.cat([guess.inputs, blanks(observation, missing).to(guess.inputs)]) if missing else guess.inputs
    masks = None if missing else guess.masks
    are_found = torch.arange(len(labels)) < made
    if labels.ndim > 1:
        return OrderedGuess(inputs, masks, are_found)
    completed = torch.cat([guess.labels, _remove_used_labels(labels, guess.labels)])
    if len(completed) != len(labels):
        return OrderedGuess(inputs, None, are_found)
    ours, theirs = labels.argsort(stable=True), completed.argsort(stable=True)
    order = theirs[ours.argsort()]
    return OrderedGuess(
        inputs[order], None if masks is None else tuple(mask[order] for mask in masks), are_found[order]
    )


def _remove_used_labels(labels: Tensor, used: Tensor) -> Tensor:
    """Return the labels without the used labels, counted with multiplicity, in their order."""
    left = labels.tolist()
    for label in used.tolist():
        if label in left:
            left.remove(label)
    return torch.tensor(left, dtype=labels.dtype)
