"""Identification of an original from its guess, among a thousand public images.

An example is identified if its guess is nearer to the original than to all public images, by SSIM or by features of a
small network.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fedsim.core import registry, seeding
from fedsim.core.types import Dataset
from fedsim.metrics.image import SSIM_SIGMA, to_pixels, window_side

PUBLIC = 1000
_LARGEST_SIDE = 64  # larger images are reduced to this size, at which people still recognise them
_LEAST = 100  # with fewer public images, blind guesses are identified too often: up to 1 in 20 with 20 photographs
_FILTERS, _FILTER_SIDE, _POOLS = 32, 5, 4
_SMALLEST_CROP, _LARGEST_CROP = 0.6, 0.95
_SAME = 0.5 / 255
_C1, _C2 = 0.01**2, 0.03**2  # constants of SSIM at data range 1


@final
class Gallery:
    """Public distractor images, with precomputed features.

    Fewer than a thousand images are complemented by enlarged and mirrored crops.

    Args:
        pictures: pixels in [0, 1], shape (N, C, H, W) with N at least 1 and sides of at least 3.
    """

    def __init__(self, pictures: Tensor) -> None:
        reduced = _downscale_pictures(pictures[:PUBLIC])
        source = seeding.generator(0, "public pictures")
        self._distinct = reduced
        crops = [_crop(reduced[index % len(reduced)], source) for index in range(PUBLIC - len(reduced))]
        self._pictures = torch.cat([reduced, *crops])
        self._sources = torch.arange(len(self._pictures)) % len(reduced)
        self._likeness = _Likeness(self._pictures)
        self._features = _Features(self._pictures, source)

    def picks(self, guess: Tensor, original: Tensor) -> bool:
        """Return whether the original is nearer to the guess than all public images; both are (C, H, W)."""
        guess, original = _downscale_pictures(guess[None]), _downscale_pictures(original[None])
        is_original = (self._distinct - original).abs().flatten(1).amax(1) <= _SAME
        impostors = ~is_original[self._sources]
        if not impostors.any():  # no distractor remains
            return False
        return any(
            bool((of_public[impostors] < of_true).all())
            for of_true, of_public in (
                (self._likeness.similarity(guess, original), self._likeness.to_public(guess)),
                (self._features.similarity(guess, original), self._features.to_public(guess)),
            )
        )


@registry.metric(
    "identified",
    title="identified",
    summary="of a picture: whether it is nearest to its guess among 1,000 public pictures, by SSIM or by features",
    over="item",
    form="flag",
    digits=0,
    statistics={"identified": "share"},
    worst=0.0,
    noun="image",
    decides=True,
    verdict="identified",
    threshold=0.5,
    chance=0.01,
    compared=False,
    is_success_count=True,
)
def identify_guesses(guesses: Tensor, originals: Tensor, public: Gallery) -> Tensor:
    """Return for each image 1 if it is identified by its guess among public images, else 0, shape (B,).

    The nearest image to the guess is determined by SSIM and by the features of a small network; either suffices. Blind
    guesses succeed by either with probability 1/1000 with a thousand public images, and at most 1/100 with a hundred.

    Args:
        guesses: pixels in [0, 1], shape (B, C, H, W).
        originals: the same.
        public: images of the same shape; duplicates of an original are excluded for it.
    """
    pairs = zip(guesses, originals, strict=True)
    return torch.tensor([float(public.picks(guess, original)) for guess, original in pairs])


def gallery(data: Dataset) -> Gallery | None:
    """Return the first thousand test images as public images; None if the test set is too small."""
    test = data.test.inputs
    if len(test) < _LEAST or test.shape[1:] != data.train.inputs.shape[1:] or min(test.shape[-2:]) < 3:  # noqa: PLR2004 - as SSIM
        return None
    if test not in _galleries:
        _galleries[test] = Gallery(to_pixels(test[:PUBLIC], data.spec))
    return _galleries[test]


_galleries: WeakIdKeyDictionary = WeakIdKeyDictionary()  # cache by test set, for all victims of a run


@final
class _Likeness:
    """SSIM of an image to many, whose moments are cached. Filters are matrices, so it is a matrix product."""

    def __init__(self, public: Tensor) -> None:
        side = window_side(public)
        self._rows, self._columns = (_gaussian(length, side) for length in public.shape[-2:])
        self._public = public
        self._mean, self._variance = self._moments(public)

    def to_public(self, guess: Tensor) -> Tensor:
        return self._ssim(guess, self._public, self._mean, self._variance)

    def similarity(self, guess: Tensor, original: Tensor) -> Tensor:
        return self._ssim(guess, original, *self._moments(original))

    def _ssim(self, guess: Tensor, candidates: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        guess_mean, spread = self._moments(guess)
        shared = self._blur_pictures(guess * candidates) - guess_mean * mean
        light = (2 * guess_mean * mean + _C1) / (guess_mean**2 + mean**2 + _C1)
        return (light * (2 * shared + _C2) / (spread + variance + _C2)).flatten(1).mean(1)

    def _moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean = self._blur_pictures(pictures)
        return mean, self._blur_pictures(pictures**2) - mean**2

    def _blur_pictures(self, pictures: Tensor) -> Tensor:
        return self._rows @ pictures @ self._columns.T


@final
class _Features:
    """Single-layer network of Coates, Ng and Lee (2011), whose filters are patches of public images.

    Images are smoothed first, because noise would activate all filters.
    """

    def __init__(self, public: Tensor, source: torch.Generator) -> None:
        self._filters = _patches(_smooth(public), source)
        answers = self._answers(public)
        self._mean, self._spread = answers.mean(0), answers.std(0).clamp_min(1e-6)
        self._public = self._normalise_features(answers)

    def to_public(self, guess: Tensor) -> Tensor:
        return self._public @ self._normalise_features(self._answers(guess))[0]

    def similarity(self, guess: Tensor, original: Tensor) -> Tensor:
        return self._normalise_features(self._answers(original)) @ self._normalise_features(self._answers(guess))[0]

    def _answers(self, pictures: Tensor) -> Tensor:
        answers = F.conv2d(_smooth(pictures), self._filters, padding=self._filters.shape[-1] // 2)
        return F.adaptive_avg_pool2d(torch.cat([answers.relu(), (-answers).relu()], 1), _POOLS).flatten(1)

    def _normalise_features(self, answers: Tensor) -> Tensor:
        scaled = (answers - self._mean) / self._spread
        return F.normalize(scaled - scaled.mean(1, keepdim=True), dim=1)


def _patches(public: Tensor, source: torch.Generator) -> Tensor:
    """Sample high-contrast patches, centred and normalised, shape (n, C, k, k)."""
    side = min(_FILTER_SIDE, *public.shape[-2:])
    candidates = 16 * _FILTERS
    rows, columns = public.shape[-2] - side + 1, public.shape[-1] - side + 1
    places = [torch.randint(n, (candidates,), generator=source).tolist() for n in (len(public), rows, columns)]
    patches = torch.stack([public[n, :, y : y + side, x : x + side] for n, y, x in zip(*places, strict=True)])
    patches = patches - patches.mean((1, 2, 3), keepdim=True)
    norms = patches.flatten(1).norm(dim=1)
    best = norms.argsort(descending=True, stable=True)[: 4 * _FILTERS : 4]
    return patches[best] / norms[best].clamp_min(1e-12)[:, None, None, None]


def _gaussian(length: int, side: int) -> Tensor:
    """Return the matrix of SSIM's filter along an image side, without padding: (length - side + 1, length)."""
    offsets = torch.arange(side, dtype=torch.float64) - side // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    matrix = torch.zeros(length - side + 1, length)
    for row in range(len(matrix)):
        matrix[row, row : row + side] = window / window.sum()
    return matrix


def _crop(picture: Tensor, source: torch.Generator) -> Tensor:
    """Return a random crop of an image (C, H, W), enlarged to its size and possibly mirrored, (1, C, H, W)."""
    share, top, left, turn = torch.rand(4, generator=source).tolist()
    scale = _SMALLEST_CROP + (_LARGEST_CROP - _SMALLEST_CROP) * share
    height, width = (max(1, round(scale * length)) for length in picture.shape[-2:])
    y, x = round(top * (picture.shape[-2] - height)), round(left * (picture.shape[-1] - width))
    part = picture[None, :, y : y + height, x : x + width]
    whole = F.interpolate(part, picture.shape[-2:], mode="bilinear", align_corners=False)
    return whole.flip(3) if turn < 0.5 else whole  # noqa: PLR2004 - one half


def _smooth(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def _downscale_pictures(pictures: Tensor) -> Tensor:
    pictures = pictures.detach().float()
    longest = max(pictures.shape[-2:])
    if longest <= _LARGEST_SIDE:
        return pictures
    shape = [max(1, round(length * _LARGEST_SIDE / longest)) for length in pictures.shape[-2:]]
    return F.interpolate(pictures, shape, mode="area")
