"""Scores against the composites that a client trained on, and against their visible parts.

A composite (CutMix) consists of pixels of two images, so an exact attack returns the composite and not an original, and
a low PSNR to the original would suggest failure. For a record's owner the visible share and its quality matter. An
attack may return composites or reassembled originals; the better score counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.examples import example_indices
from fedsim.core.types import Batch, InputSpec, Reconstruction, Truth
from fedsim.metrics.boxes import CutMixRecord, inside
from fedsim.metrics.image import PSNR_CAP, ScoredItems, match, psnr, ssim, to_pixels
from fedsim.metrics.missing import fill
from fedsim.record import ItemScore

_PAIR = 2
_TABLE = "Against the composites that clients trained on"
_WORST_PSNR = 0.0
_WORST_SSIM = -1.0


class _Sighting(NamedTuple):
    example: int
    step: int
    place: int  # position of the composite in its batch
    region: Tensor  # mask (H, W), boolean


@registry.metric(
    "psnr_trained",
    title="PSNR to the composite",
    summary="PSNR to the composite that the model saw in the example's place, dB",
    over="item",
    unit="dB",
    digits=1,
    statistics={"composites.psnr_trained": "median"},
    worst=_WORST_PSNR,
    noun="image",
    tables="none",
    table=_TABLE,
)
def psnr_trained(shown: Tensor, trained: Tensor) -> Tensor:
    """Return the PSNR of each guess to the composite, in dB, shape (B,); the worst value for a missing guess."""
    return psnr(shown, trained).nan_to_num(nan=_WORST_PSNR)


@registry.metric(
    "ssim_trained",
    title="SSIM to the composite",
    summary="SSIM to the composite that the model saw in the example's place",
    over="item",
    statistics={"composites.ssim_trained": "mean"},
    worst=_WORST_SSIM,
    noun="image",
    compared=False,
    tables="none",
    table=_TABLE,
)
def ssim_trained(shown: Tensor, trained: Tensor) -> Tensor:
    """Return the SSIM of each guess to the composite, shape (B,); the worst value for a missing guess."""
    return ssim(shown, trained).nan_to_num(nan=_WORST_SSIM)


@registry.metric(
    "psnr_seen",
    title="PSNR to the seen part",
    summary="PSNR over the pixels of the example that the model saw, dB",
    over="item",
    unit="dB",
    digits=1,
    statistics={"composites.psnr_seen": "median"},
    worst=_WORST_PSNR,
    noun="image",
    tables="none",
    table=_TABLE,
)
def psnr_seen(guesses: list[tuple[Tensor, Tensor]], original: Tensor) -> float:
    """PSNR in dB of an image (C, H, W) over the masks (H, W) of guesses.

    The worst value if no pixel is visible or a guess is missing.
    """
    errors = torch.cat([(guess - original).double()[:, region].flatten() for guess, region in guesses])
    if not len(errors) or not bool(errors.isfinite().all()):
        return _WORST_PSNR
    return float(-10.0 * errors.square().mean().clamp_min(10.0 ** (-PSNR_CAP / 10.0)).log10())


@registry.metric(
    "seen",
    title="part seen",
    summary="share of the example's pixels that occur in any composite of the update",
    over="item",
    form="percent",
    digits=0,
    statistics={"composites.seen": "mean"},
    noun="image",
    tables="none",
    table=_TABLE,
)
def visible_share(region: Tensor) -> float:
    """Return the share of an image's pixels in a mask (H, W), in [0, 1]."""
    return float(region.double().mean())


@registry.metric(
    "minor_share",
    title="share of the smaller label",
    summary="smaller of the two label shares of the composite at the example's position",
    over="item",
    noun="image",
    shown=False,
    tables="none",
    table=_TABLE,
)
def minor_share(trained: Tensor) -> float:
    """Return the smaller of a composite's two label shares, from shares of K classes."""
    return float(trained.topk(_PAIR).values[1])


@registry.metric(
    "minor_found",
    title="both labels found",
    summary="whether the attack named both labels of the composite in the example's place",
    over="item",
    form="flag",
    digits=0,
    statistics={"composites.minor_found": "mean"},
    noun="image",
    is_success_count=True,
    tables="none",
    table=_TABLE,
    by="minor_share",
    ranges=((0.0, 0.05), (0.05, 0.2), (0.2, 0.5)),
)
def minor_found(shares: Tensor, trained: Tensor) -> bool:
    """Return whether the two largest of K shares belong to the true classes."""
    return set(shares.topk(_PAIR).indices.tolist()) == set(trained.topk(_PAIR).indices.tolist())


@registry.metric(
    "share_error",
    title="error of a share",
    summary="largest error of a label share that the attack gave",
    over="item",
    better="lower",
    noun="image",
    shown=False,
    tables="none",
    table=_TABLE,
)
def share_error(shares: Tensor, trained: Tensor) -> float:
    """Return the largest absolute error of K shares."""
    return float((shares - trained).abs().max())


def with_composites(
    scored: ScoredItems, reconstruction: Reconstruction, truth: Truth, examples: Batch, spec: InputSpec
) -> tuple[ItemScore, ...]:
    """Add scores against composites; scores stay unchanged if no component recorded a mixture.

    Args:
        scored: scores against the originals.
        reconstruction: the guess.
        truth: ground truth with the draws of each step.
        examples: distinct examples of the update.
        spec: the true normalisation.
    """
    steps = [CutMixRecord.written_in(draws) for draws in truth.draws]
    if not any(steps):
        return scored.items
    guesses, items = _finite_pixels(reconstruction.inputs, spec), scored.items
    shown: Tensor | None = None
    if len(steps) == 1:
        shown, items = _score_composites(items, reconstruction, truth.batches[0], spec)
    originals = to_pixels(examples.inputs, spec)
    sightings: dict[int, list[_Sighting]] = {}
    for sighting in _sightings(truth, steps):
        sightings.setdefault(sighting.example, []).append(sighting)
    chances: dict[int, dict[str, float]] = {}
    for index, group in sightings.items():
        region = torch.stack([sighting.region for sighting in group]).any(0)
        readings = [psnr_seen([(guesses[scored.order[index]], region)], originals[index])]
        if shown is not None:
            readings.append(psnr_seen([(shown[finding.place], finding.region) for finding in group], originals[index]))
        chances[index] = {"psnr_seen": max(readings), "seen": visible_share(region)}
    return tuple(item.with_values(chances.get(item.index, {})) for item in items)


def _score_composites(
    items: tuple[ItemScore, ...], reconstruction: Reconstruction, batch: Batch, spec: InputSpec
) -> tuple[Tensor, tuple[ItemScore, ...]]:
    """Return the guesses in pixels, in the order of a step's composites, and the scores against these."""
    trained = to_pixels(batch.inputs, spec)
    made = reconstruction.inputs if reconstruction.trained_batch is None else reconstruction.trained_batch.inputs
    guesses = fill(_finite_pixels(made, spec), len(trained), torch.nan)
    order = match(guesses, trained)
    named = [] if reconstruction.trained_batch is None else list(reconstruction.trained_batch.labels)
    shares = [named[place] if place < len(named) else None for place in order.tolist()]
    labels = [_labels(true, guess) for true, guess in zip(batch.labels, shares, strict=True)]
    shown = guesses[order]
    decibels, similarities = psnr_trained(shown, trained).tolist(), ssim_trained(shown, trained).tolist()
    rows = zip(items, decibels, similarities, labels, strict=True)
    return shown, tuple(
        item.with_values({"psnr_trained": db, "ssim_trained": similarity, **named_values})
        for item, db, similarity, named_values in rows
    )


def _finite_pixels(inputs: Tensor, spec: InputSpec) -> Tensor:
    """Denormalise to pixels in [0, 1]; examples with non-finite entries become NaN."""
    is_usable = inputs.flatten(1).isfinite().all(1)
    return to_pixels(inputs, spec).where(is_usable[:, None, None, None], torch.nan)


def _sightings(truth: Truth, steps: list[CutMixRecord | None]) -> Iterator[_Sighting]:
    """Yield the visible regions of each example; steps without pasted rectangles yield none."""
    everyone = example_indices(truth.original_batches)
    for step, (pasted, examples) in enumerate(zip(steps, everyone, strict=True)):
        if pasted is None or pasted.boxes is None:
            continue
        regions = inside(pasted.boxes, *truth.original_batches[step].inputs.shape[-2:])
        for place, region in enumerate(regions):
            yield _Sighting(int(examples[place]), step, place, ~region)
            if pasted.partners is not None:
                yield _Sighting(int(examples[pasted.partners[place]]), step, place, region)


def _labels(trained: Tensor, shares: Tensor | None) -> dict[str, float]:
    """Return scores of the inferred labels of a composite; empty if it has one label only.

    Args:
        trained: the label: a class, or shares of K classes.
        shares: the guessed shares, or None.
    """
    if not trained.dim() or int((trained > 0).sum()) != _PAIR:
        return {}
    if shares is None:
        return {"minor_share": minor_share(trained)}
    return {
        "minor_share": minor_share(trained),
        "minor_found": float(minor_found(shares, trained)),
        "share_error": share_error(shares, trained),
    }
