"""How close a guess is to what the model really saw, where a client trained on composites of its images.

A composite (CutMix) is made of pixels of two images, so an exact attack returns it and not an original: PSNR against
the original alone would call that a failure. What counts for a record's owner is how much of it is seen, and how
sharply; an attack may return composites or put originals together, and the better reading counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.boxes import Pasted, inside
from fedsim.core.examples import numbers
from fedsim.core.types import Batch, InputSpec, Reconstruction, Truth
from fedsim.metrics.image import PSNR_CAP, ScoredItems, match, psnr, ssim, to_pixels
from fedsim.metrics.missing import filled
from fedsim.record import ItemScore

_PAIR = 2


class _Sighting(NamedTuple):
    example: int
    step: int
    place: int  # of the composite in its batch
    region: Tensor  # (H, W), boolean


def with_composites(
    scored: ScoredItems, found: Reconstruction, truth: Truth, examples: Batch, spec: InputSpec
) -> tuple[ItemScore, ...]:
    """Return the scores with those against composites, or as they are when no component wrote down a mixture.

    Args:
        scored: against the originals.
        found: the guess.
        truth: with the draws of every step.
        examples: every one behind the update, once.
        spec: the true normalisation.
    """
    steps = [Pasted.written_in(draws) for draws in truth.draws]
    if not any(steps):
        return scored.items
    guesses, items = _finite_pixels(found.inputs, spec), scored.items
    shown: Tensor | None = None
    if len(steps) == 1:
        shown, items = _against_trained(items, found, truth.batches[0], spec)
    originals = to_pixels(examples.inputs, spec)
    sightings: dict[int, list[_Sighting]] = {}
    for sighting in _sightings(truth, steps):
        sightings.setdefault(sighting.example, []).append(sighting)
    seen: dict[int, dict[str, float]] = {}
    for index, own in sightings.items():
        region = torch.stack([sighting.region for sighting in own]).any(0)
        readings = [_psnr([(guesses[scored.order[index]], region)], originals[index])]
        if shown is not None:
            readings.append(_psnr([(shown[one.place], one.region) for one in own], originals[index]))
        seen[index] = {"seen": float(region.double().mean()), "psnr_seen": max(readings)}
    return tuple(item.model_copy(update=seen.get(item.index, {})) for item in items)


def _against_trained(
    items: tuple[ItemScore, ...], found: Reconstruction, batch: Batch, spec: InputSpec
) -> tuple[Tensor, tuple[ItemScore, ...]]:
    """Return the guesses in the order of the composites of one step, in pixels, and the scores against these."""
    trained = to_pixels(batch.inputs, spec)
    made = found.inputs if found.trained is None else found.trained.inputs
    guesses = filled(_finite_pixels(made, spec), len(trained), torch.nan)
    order = match(guesses, trained)
    named = [] if found.trained is None else list(found.trained.labels)
    shares = [named[place] if place < len(named) else None for place in order.tolist()]
    labels = [_labels(true, guess) for true, guess in zip(batch.labels, shares, strict=True)]
    shown = guesses[order]
    decibels = psnr(shown, trained).nan_to_num(nan=0.0)
    similarities = ssim(shown, trained).nan_to_num(nan=-1.0)
    rows = zip(items, decibels.tolist(), similarities.tolist(), labels, strict=True)
    return shown, tuple(
        item.model_copy(update={"psnr_trained": db, "ssim_trained": similarity, **own})
        for item, db, similarity, own in rows
    )


def _finite_pixels(inputs: Tensor, spec: InputSpec) -> Tensor:
    """De-normalise to pixels in [0, 1]; of an example that is not finite every pixel is NaN."""
    is_usable = inputs.flatten(1).isfinite().all(1)
    return to_pixels(inputs, spec).where(is_usable[:, None, None, None], torch.nan)


def _sightings(truth: Truth, steps: list[Pasted | None]) -> Iterator[_Sighting]:
    """Yield where which pixels of which example stand; nothing of steps that pasted no rectangle."""
    everyone = numbers(truth.private)
    for step, (pasted, examples) in enumerate(zip(steps, everyone, strict=True)):
        if pasted is None or pasted.boxes is None:
            continue
        regions = inside(pasted.boxes, *truth.private[step].inputs.shape[-2:])
        for place, region in enumerate(regions):
            yield _Sighting(int(examples[place]), step, place, ~region)
            if pasted.partners is not None:
                yield _Sighting(int(examples[pasted.partners[place]]), step, place, region)


def _psnr(guesses: list[tuple[Tensor, Tensor]], original: Tensor) -> float:
    """PSNR in dB of one image (C, H, W) over the regions (H, W) of guesses; the lowest where nothing is seen.

    It is the lowest for a guess that is missing, too.
    """
    errors = torch.cat([(guess - original).double()[:, region].flatten() for guess, region in guesses])
    if not len(errors) or not bool(errors.isfinite().all()):
        return 0.0
    return float(-10.0 * errors.square().mean().clamp_min(10.0 ** (-PSNR_CAP / 10.0)).log10())


def _labels(trained: Tensor, shares: Tensor | None) -> dict[str, float | bool]:
    """What an attack found out about the two labels of a composite; nothing when it has only one.

    Args:
        trained: the label, a class or the shares of K classes.
        shares: the attack's guess of them, or None.
    """
    if not trained.dim() or int((trained > 0).sum()) != _PAIR:
        return {}
    largest = trained.topk(_PAIR)
    if shares is None:
        return {"minor_share": float(largest.values[1])}
    return {
        "minor_share": float(largest.values[1]),
        "minor_found": set(shares.topk(_PAIR).indices.tolist()) == set(largest.indices.tolist()),
        "share_error": float((shares - trained).abs().max()),
    }
