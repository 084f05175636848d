"""Score and show guessed images, each against the original assigned to it, in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.core.types import Batch, Dataset, Reconstruction, Truth
from fedsim.core.types.tasks import Scored
from fedsim.metrics.composites import with_composites
from fedsim.metrics.identification import gallery, identify_guesses
from fedsim.metrics.image import ScoredItems, nearest, score_items, to_pixels
from fedsim.metrics.labels import label_accuracy
from fedsim.metrics.missing import complete
from fedsim.record import ItemScore

_MOST_PUBLIC = 2000


def score_images(truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
    """Score guesses, completed by missing guesses, against images and, if a client mixed them, against mixtures.

    Returns:
        Scores, and as an array `public` the public image nearest to each guess, in 256 levels.
    """
    made, spec = len(guess.inputs), data.spec
    guess = complete(guess, len(examples))
    scored = score_items(guess, examples, spec)
    items = with_composites(_add_identified(scored, guess, examples, data), guess, truth, examples, spec)
    public = _public_images(data)
    public_scores = {} if public is None else {"public": _next_to(to_pixels(guess.inputs[scored.order], spec), public)}
    return Scored(
        items=items,
        values=label_values(items),
        order=scored.order,
        guess=guess,
        notes=() if made >= len(examples) else (_describe_missing(made, len(examples)),),
        arrays=public_scores,
    )


def label_values(items: Sequence[ItemScore]) -> dict[str, float]:
    """Return the label accuracy of an update; empty if examples have no classes."""
    if all(item.label is None for item in items):
        return {}
    return {"label_accuracy": label_accuracy((item.guessed_label for item in items), (item.label for item in items))}


def _add_identified(scored: ScoredItems, guess: Reconstruction, examples: Batch, data: Dataset) -> ScoredItems:
    """Add to each image whether an adversary with the test set identifies it by its guess."""
    public = gallery(data)
    if public is None:
        return scored
    guesses = guess.inputs[scored.order]
    known = identify_guesses(to_pixels(guesses, data.spec), to_pixels(examples.inputs, data.spec), public)
    is_usable = guesses.flatten(1).isfinite().all(1)
    pairs = zip(scored.items, known.where(is_usable, 0.0).tolist(), strict=True)
    return scored._replace(items=tuple(item.with_values({"identified": value}) for item, value in pairs))


def _describe_missing(made: int, count: int) -> str:
    return f"it guessed {made} of {count} examples; examples without a guess count as missing, with the worst scores"


def _public_images(data: Dataset) -> Tensor | None:
    """Return public images: the first test images, unless clients train on them.

    Returns:
        Pixels (N, C, H, W) in [0, 1], or None.
    """
    train, test = data.train.inputs, data.test.inputs[:_MOST_PUBLIC]
    if not len(test) or test.shape[1:] != train.shape[1:] or torch.equal(test, train[: len(test)]):
        return None
    return to_pixels(test, data.spec)


def _next_to(guesses: Tensor, public: Tensor) -> np.ndarray:
    """Return the public image nearest to each guess, as uint8, which needs a quarter of the memory."""
    return (255 * public[nearest(guesses, public)]).round().to(torch.uint8).numpy()
