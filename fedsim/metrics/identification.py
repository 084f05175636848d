"""Whether a guess tells an adversary which picture it is of: the true one is picked out of a thousand public ones."""

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
_LARGEST_SIDE = 64  # larger pictures are compared at this size: a person recognises them there, too
_LEAST = 100  # beside fewer, too many blind guesses are picked out: up to 1 in 20 beside 20 photographs
_FILTERS, _FILTER_SIDE, _POOLS = 32, 5, 4
_SMALLEST_CROP, _LARGEST_CROP = 0.6, 0.95
_SAME = 0.5 / 255
_C1, _C2 = 0.01**2, 0.03**2  # the constants of SSIM at data range 1


@final
class Gallery:
    """Public pictures that stand beside the true one, measured once.

    A few pictures are filled up to a thousand by crops of them, enlarged and mirrored.

    Args:
        pictures: pixels in [0, 1], shape (N, C, H, W) with N at least 1 and sides of at least 3.
    """

    def __init__(self, pictures: Tensor) -> None:
        reduced = _reduced(pictures[:PUBLIC])
        source = seeding.generator(0, "public pictures")
        self._distinct = reduced
        crops = [_crop(reduced[index % len(reduced)], source) for index in range(PUBLIC - len(reduced))]
        self._pictures = torch.cat([reduced, *crops])
        self._sources = torch.arange(len(self._pictures)) % len(reduced)
        self._likeness = _Likeness(self._pictures)
        self._features = _Features(self._pictures, source)

    def picks(self, guess: Tensor, original: Tensor) -> bool:
        """Tell whether the original, and not a public picture, is nearest to the guess; both are (C, H, W)."""
        guess, original = _reduced(guess[None]), _reduced(original[None])
        is_original = (self._distinct - original).abs().flatten(1).amax(1) <= _SAME
        others = ~is_original[self._sources]
        if not others.any():  # it stands beside nothing
            return False
        return any(
            bool((of_public[others] < of_true).all())
            for of_true, of_public in (
                (self._likeness.between(guess, original), self._likeness.to_public(guess)),
                (self._features.between(guess, original), self._features.to_public(guess)),
            )
        )


@registry.metric(
    "identified",
    title="identified",
    summary="of a picture: whether it is nearest to its guess among 1,000 public ones, by SSIM or by features",
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
    counted=True,
)
def identified(guesses: Tensor, originals: Tensor, public: Gallery) -> Tensor:
    """Return of each picture 1 if an adversary picks it out of public ones by its guess, else 0, shape (B,).

    The guess's nearest picture is sought by SSIM and by the features of a small network; one of them suffices.
    Blind guesses succeed by either once in a thousand times beside a thousand pictures, and at most once in a hundred
    beside a hundred.

    Args:
        guesses: pixels in [0, 1], shape (B, C, H, W).
        originals: the same.
        public: pictures of the same shape; those that equal an original are left out for it.
    """
    pairs = zip(guesses, originals, strict=True)
    return torch.tensor([float(public.picks(guess, original)) for guess, original in pairs])


def gallery(data: Dataset) -> Gallery | None:
    """Return the first thousand pictures of the test set as public ones; None where it has too few."""
    test = data.test.inputs
    if len(test) < _LEAST or test.shape[1:] != data.train.inputs.shape[1:] or min(test.shape[-2:]) < 3:  # noqa: PLR2004 - as SSIM
        return None
    if test not in _galleries:
        _galleries[test] = Gallery(to_pixels(test[:PUBLIC], data.spec))
    return _galleries[test]


_galleries: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by the test set's pictures: every victim of a run asks again


@final
class _Likeness:
    """SSIM of one picture to many, whose share of it is computed once. Filters are matrices, so it is a product."""

    def __init__(self, public: Tensor) -> None:
        side = window_side(public)
        self._rows, self._columns = (_gaussian(length, side) for length in public.shape[-2:])
        self._public = public
        self._mean, self._variance = self._moments(public)

    def to_public(self, guess: Tensor) -> Tensor:
        return self._ssim(guess, self._public, self._mean, self._variance)

    def between(self, guess: Tensor, original: Tensor) -> Tensor:
        return self._ssim(guess, original, *self._moments(original))

    def _ssim(self, guess: Tensor, others: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        guess_mean, spread = self._moments(guess)
        shared = self._blurred(guess * others) - guess_mean * mean
        light = (2 * guess_mean * mean + _C1) / (guess_mean**2 + mean**2 + _C1)
        return (light * (2 * shared + _C2) / (spread + variance + _C2)).flatten(1).mean(1)

    def _moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean = self._blurred(pictures)
        return mean, self._blurred(pictures**2) - mean**2

    def _blurred(self, pictures: Tensor) -> Tensor:
        return self._rows @ pictures @ self._columns.T


@final
class _Features:
    """The network of one layer of Coates, Ng and Lee (2011): its filters are patches of public pictures.

    Pictures are smoothed first, since noise would answer to every filter.
    """

    def __init__(self, public: Tensor, source: torch.Generator) -> None:
        self._filters = _patches(_smooth(public), source)
        answers = self._answers(public)
        self._mean, self._spread = answers.mean(0), answers.std(0).clamp_min(1e-6)
        self._public = self._scaled(answers)

    def to_public(self, guess: Tensor) -> Tensor:
        return self._public @ self._scaled(self._answers(guess))[0]

    def between(self, guess: Tensor, original: Tensor) -> Tensor:
        return self._scaled(self._answers(original)) @ self._scaled(self._answers(guess))[0]

    def _answers(self, pictures: Tensor) -> Tensor:
        answers = F.conv2d(_smooth(pictures), self._filters, padding=self._filters.shape[-1] // 2)
        return F.adaptive_avg_pool2d(torch.cat([answers.relu(), (-answers).relu()], 1), _POOLS).flatten(1)

    def _scaled(self, answers: Tensor) -> Tensor:
        scaled = (answers - self._mean) / self._spread
        return F.normalize(scaled - scaled.mean(1, keepdim=True), dim=1)


def _patches(public: Tensor, source: torch.Generator) -> Tensor:
    """Draw patches of high contrast, without their mean and of length 1, shape (n, C, k, k)."""
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
    """Return the matrix of SSIM's filter along a side of a picture, without padding: (length - side + 1, length)."""
    at = torch.arange(side, dtype=torch.float64) - side // 2
    window = torch.exp(-(at**2) / (2 * SSIM_SIGMA**2))
    matrix = torch.zeros(length - side + 1, length)
    for row in range(len(matrix)):
        matrix[row, row : row + side] = window / window.sum()
    return matrix


def _crop(picture: Tensor, source: torch.Generator) -> Tensor:
    """Return a part of a picture (C, H, W), enlarged to its size and perhaps mirrored, (1, C, H, W)."""
    share, top, left, turn = torch.rand(4, generator=source).tolist()
    scale = _SMALLEST_CROP + (_LARGEST_CROP - _SMALLEST_CROP) * share
    height, width = (max(1, round(scale * length)) for length in picture.shape[-2:])
    y, x = round(top * (picture.shape[-2] - height)), round(left * (picture.shape[-1] - width))
    part = picture[None, :, y : y + height, x : x + width]
    whole = F.interpolate(part, picture.shape[-2:], mode="bilinear", align_corners=False)
    return whole.flip(3) if turn < 0.5 else whole  # noqa: PLR2004 - one half


def _smooth(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def _reduced(pictures: Tensor) -> Tensor:
    pictures = pictures.detach().float()
    longest = max(pictures.shape[-2:])
    if longest <= _LARGEST_SIDE:
        return pictures
    shape = [max(1, round(length * _LARGEST_SIDE / longest)) for length in pictures.shape[-2:]]
    return F.interpolate(pictures, shape, mode="area")
