"""How guessed images are scored and shown: beside the originals that they are nearest to, in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.core.types import Batch, Dataset, Reconstruction, Truth
from fedsim.core.types.tasks import Scored
from fedsim.metrics.composites import with_composites
from fedsim.metrics.identification import gallery, identified
from fedsim.metrics.image import ScoredItems, nearest, score_items, to_pixels
from fedsim.metrics.labels import label_accuracy
from fedsim.metrics.missing import complete
from fedsim.record import ItemScore

_MOST_PUBLIC = 2000


def score_images(truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
    """Score guesses, filled up with missing ones, against images and, where a client mixed them, against mixtures.

    Returns:
        Scores, and as an array `public` the image next to each guess that an attacker may own, in 256 steps.
    """
    made, spec = len(guess.inputs), data.spec
    guess = complete(guess, len(examples))
    scored = score_items(guess, examples, spec)
    items = with_composites(_identified(scored, guess, examples, data), guess, truth, examples, spec)
    public = _public_images(data)
    near = {} if public is None else {"public": _next_to(to_pixels(guess.inputs[scored.order], spec), public)}
    return Scored(
        items=items,
        values=label_values(items),
        order=scored.order,
        guess=guess,
        notes=() if made >= len(examples) else (_missing(made, len(examples)),),
        arrays=near,
    )


def label_values(items: Sequence[ItemScore]) -> dict[str, float]:
    """Return the metrics of an update of examples as a whole; none where they have no classes."""
    if all(item.label is None for item in items):
        return {}
    return {"label_accuracy": label_accuracy((item.guessed_label for item in items), (item.label for item in items))}


def _identified(scored: ScoredItems, guess: Reconstruction, examples: Batch, data: Dataset) -> ScoredItems:
    """Add to each image whether an adversary that owns the test set knows it by its guess."""
    public = gallery(data)
    if public is None:
        return scored
    guesses = guess.inputs[scored.order]
    known = identified(to_pixels(guesses, data.spec), to_pixels(examples.inputs, data.spec), public)
    is_usable = guesses.flatten(1).isfinite().all(1)
    pairs = zip(scored.items, known.where(is_usable, 0.0).tolist(), strict=True)
    return scored._replace(items=tuple(item.with_values({"identified": value}) for item, value in pairs))


def _missing(made: int, count: int) -> str:
    return f"it guessed {made} of {count} examples; those without a guess count as missing, with the worst scores"


def _public_images(data: Dataset) -> Tensor | None:
    """Return pictures of the same kind that an attacker may own: the first of the test set, unless clients train on it.

    Returns:
        Pixels (N, C, H, W) in [0, 1], or None.
    """
    train, test = data.train.inputs, data.test.inputs[:_MOST_PUBLIC]
    if not len(test) or test.shape[1:] != train.shape[1:] or torch.equal(test, train[: len(test)]):
        return None
    return to_pixels(test, data.spec)


def _next_to(guesses: Tensor, public: Tensor) -> np.ndarray:
    """Return for each guess the public picture nearest to it, as bytes: enough to look at, a quarter of the size."""
    return (255 * public[nearest(guesses, public)]).round().to(torch.uint8).numpy()
