"""Reconstruction quality of images: MSE, PSNR and SSIM in pixel units.

Scores are computed after denormalisation and clipping to [0, 1]. PSNR of the error in normalised units would be off by
20 log10(std) dB, and rescaling each image to its own range would hide errors of brightness and contrast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pytorch_msssim import ssim as _windowed_ssim
from torch import Tensor

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, InputSpec, Reconstruction
from fedsim.metrics.labels import classes_of
from fedsim.record import ItemScore

PSNR_CAP = 160.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5

HALF_STEP = 0.5 / 255 + 1e-6  # pixels are stored in single precision
_WORST_MSE = 1.0
_WORST_PSNR = 0.0
_WORST_SSIM = -1.0


class ScoredItems(NamedTuple):
    """Scores in the order of the originals, and the assignment.

    Attributes:
        items: a score per original, by index.
        order: shape (B,), ``order[i]`` is the guess matched to original i. Used to reorder guesses and masks.
    """

    items: tuple[ItemScore, ...]
    order: Tensor


def to_pixels(inputs: Tensor, spec: InputSpec) -> Tensor:
    """Denormalise model inputs to pixels.

    Args:
        inputs: normalised, shape (B, C, H, W), or volumes (B, C, D, H, W).
        spec: contains the per-channel mean and standard deviation of the normalisation.

    Returns:
        Pixels clipped to [0, 1], shape (B, C, H, W); for volumes the slices are stacked vertically, (B, C, D H, W). NaN
        becomes 0.
    """
    inputs = inputs if inputs.ndim < 5 else inputs.flatten(2, -2)  # noqa: PLR2004 - of a batch of volumes
    pixels = inputs * _channel_tensor(spec.std, inputs) + _channel_tensor(spec.mean, inputs)
    return pixels.nan_to_num(nan=0.0).clamp(0.0, 1.0)


@registry.metric(
    "mse",
    title="MSE",
    summary="mean squared error in pixel units of [0, 1]",
    over="item",
    better="lower",
    digits=4,
    statistics={"mse_mean": "mean"},
    worst=_WORST_MSE,
    noun="image",
    decides=True,
    is_image_metric=True,
    shown=False,
    compared=False,
)
def mse(guesses: Tensor, originals: Tensor) -> Tensor:
    """Return the mean squared error of each image, shape (B,), in double precision. Inputs are (B, C, H, W)."""
    return (guesses.double() - originals.double()).square().flatten(1).mean(1)


@registry.metric(
    "mse_normalised",
    title="normalised MSE",
    summary="mean squared error in the model's input units",
    over="item",
    better="lower",
    digits=4,
    noun="image",
    shown=False,
    tables="run",
)
def mse_normalised(guesses: Tensor, originals: Tensor) -> Tensor:
    """Return the error of model inputs, not pixels, (B,). Its worst value depends on the normalisation."""
    return mse(guesses, originals)


@registry.metric(
    "psnr",
    title="PSNR",
    summary="peak signal-to-noise ratio, dB",
    over="item",
    unit="dB",
    digits=1,
    statistics={"psnr_median": "median", "psnr_mean": "mean"},
    worst=_WORST_PSNR,
    noun="image",
    decides=True,
    is_image_metric=True,
    spread=True,
    steps=(15.0, 20.0, 25.0, 30.0, 40.0),
    column="psnr_db",
)
def psnr(guesses: Tensor, originals: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, shape (B,), at most 160 dB.

    Args:
        guesses: pixels in [0, 1], shape (B, C, H, W).
        originals: the same.
    """
    return -10.0 * torch.log10(mse(guesses, originals).clamp_min(10.0 ** (-PSNR_CAP / 10.0)))


@registry.metric(
    "ssim",
    title="SSIM",
    summary="structural similarity, at most 1",
    over="item",
    statistics={"ssim_mean": "mean"},
    limits=(-1.0, 1.0),
    worst=_WORST_SSIM,
    noun="image",
    decides=True,
    threshold=0.5,
    verdict="readable",
    is_image_metric=True,
    leads=True,
    spread=True,
    compared=False,
)
def ssim(guesses: Tensor, originals: Tensor) -> Tensor:
    """Return the structural similarity of each image, shape (B,), in [-1, 1].

    Gaussian window of 11 x 11 with sigma 1.5, data range 1, without padding. Images with a side below 11 get the
    largest odd window that fits.

    Args:
        guesses: pixels in [0, 1], shape (B, C, H, W) with H, W >= 3.
        originals: the same.

    Raises:
        FedsimError: the inputs are no batch of images of at least 3 x 3 pixels.
    """
    if originals.ndim != 4 or min(originals.shape[-2:]) < 3:  # noqa: PLR2004 - the message says what they mean
        raise FedsimError(f"SSIM needs images (B, C, H, W) of at least 3 x 3 pixels, got {tuple(originals.shape)}.")
    window = window_side(originals)
    return _windowed_ssim(
        guesses.double(), originals.double(), data_range=1.0, size_average=False, win_size=window, win_sigma=SSIM_SIGMA
    )


def window_side(pictures: Tensor) -> int:
    """Return the side of SSIM's window for images (B, C, H, W): the largest odd number that fits, at most 11."""
    side = min(SSIM_WINDOW, *pictures.shape[-2:])
    return side if side % 2 else side - 1


@registry.metric(
    "exact_pixels",
    title="exact",
    summary="of a picture: whether every pixel is within half a step of 1/255",
    over="item",
    form="flag",
    digits=0,
    statistics={"exact_pixels": "share"},
    worst=0.0,
    noun="image",
    decides=True,
    is_image_metric=True,
    verdict="exact",
    compared=False,
)
def exact_pixels(guesses: Tensor, originals: Tensor) -> Tensor:
    """Return for each image 1 if all pixels are within half of 1/255, so that 8-bit files are equal, else 0."""
    return ((guesses.double() - originals.double()).abs().flatten(1).amax(1) <= HALF_STEP).double()


def match(guesses: Tensor, originals: Tensor) -> Tensor:
    """Assign guesses to originals with the minimum sum of squared errors (Hungarian method).

    A gradient is a sum over examples, so an attack returns a batch in arbitrary order; without matching a perfect
    reconstruction in another order would count as failed.

    Args:
        guesses: pixels, shape (G, C, H, W) with G >= B; guesses with non-finite entries are assigned last.
        originals: pixels, shape (B, C, H, W).

    Returns:
        Shape (B,): the guess of each original, each guess at most once.

    Raises:
        FedsimError: fewer guesses than originals.
    """
    if len(guesses) < len(originals):
        raise FedsimError(f"the attack returned {len(guesses)} examples for a batch of {len(originals)}.")
    errors = (originals.double().unsqueeze(1) - guesses.double().unsqueeze(0)).square().flatten(2).mean(2)
    unusable = 1.0 + errors.nan_to_num(nan=0.0, posinf=0.0).max()
    cost = torch.where(errors.isfinite(), errors, unusable)
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1])


def score_items(reconstruction: Reconstruction, batch: Batch, spec: InputSpec) -> ScoredItems:
    """Score each original of a batch against its matched guess.

    A guess that is not finite gets the worst score instead of an error: MSE 1, PSNR 0 dB, SSIM -1, and the normalised
    error of an image at the opposite end of the range.

    Args:
        reconstruction: guesses (G, C, H, W), normalised, with G >= B; see `fedsim.metrics.missing` for fewer.
        batch: the originals (B, C, H, W), normalised by `spec`.
        spec: the true normalisation, even if the attacker did not know it.

    Raises:
        FedsimError: shapes of guesses and originals differ, or there are fewer guesses than originals.
    """
    guesses, originals = reconstruction.inputs.detach(), batch.inputs
    if guesses.shape[1:] != originals.shape[1:]:
        raise FedsimError(
            f"the attack returned examples of shape {tuple(guesses.shape[1:])}, expected {tuple(originals.shape[1:])}."
        )
    finite = guesses.flatten(1).isfinite().all(1)
    pixels, target = to_pixels(guesses, spec), to_pixels(originals, spec)
    order = match(torch.where(finite[:, None, None, None], pixels, torch.nan), target)
    usable = finite[order]
    pixels = pixels[order]
    worst_normalised = sum(std**-2 for std in spec.std) / len(spec.std)
    normalised = mse_normalised(guesses[order], originals).where(usable, worst_normalised)
    values = {"mse_normalised": normalised.tolist(), **_picture_scores(pixels, target, usable)}
    missing = guesses[order].isnan().flatten(1).all(1)
    labels = zip(classes_of(batch.labels), classes_of(reconstruction.labels[order]), missing.tolist(), strict=True)
    items = tuple(
        ItemScore(
            index=index,
            values={name: column[index] for name, column in values.items()},
            label=label,
            guessed_label=guess,
            is_missing=is_missing,
        )
        for index, (label, guess, is_missing) in enumerate(labels)
    )
    return ScoredItems(items, order)


def _picture_scores(guesses: Tensor, originals: Tensor, usable: Tensor) -> dict[str, list[float]]:
    """Return the values of all registered image metrics; unusable guesses get the worst value."""
    scores: dict[str, list[float]] = {}
    for name, declared in sorted(registry.every_metric().items()):
        if declared.is_image_metric and declared.over == "item" and declared.worst is not None:
            values = torch.as_tensor(registry.get("metric", name).make(guesses, originals)).double()
            if values.shape != usable.shape:
                raise FedsimError(
                    f"metric '{name}' returned shape {tuple(values.shape)}, expected a value "
                    f"for each picture, {tuple(usable.shape)}."
                )
            scores[name] = values.where(usable, declared.worst).tolist()
    return scores


def nearest(pixels: Tensor, candidates: Tensor) -> Tensor:
    """Return for each image the index of the nearest of others, by squared error.

    Args:
        pixels: shape (B, C, H, W).
        candidates: shape (N, C, H, W), N at least 1.
    """
    return torch.cdist(pixels.flatten(1), candidates.flatten(1)).argmin(1)


def _channel_tensor(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
