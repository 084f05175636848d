"""Whether samples of a trained model repeat images that it was trained on.

A sample is a copy where its nearest training image is less than half as far from it as its 50 nearest are on average
(after Carlini et al. 2023, arXiv 2301.13188). A planted image counts as drawn where a sample is within a tenth of it,
as root mean square of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.core.registry import metric
from fedsim.metrics.statistics import wilson
from fedsim.record import Interval

_NEIGHBOURS = 50
_NEAR = 0.5
SAME = 0.1
"""Root mean square of the difference in pixels, below which a sample is an image again."""


@metric(
    "copied_share",
    title="copied",
    summary="share of the samples that are less than half as far from one training image as from its 50 neighbours",
    related="2301.13188",
    over="finding",
    counted=True,
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def copied_share(samples: Tensor, images: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of samples (N, C, H, W) that are nearer to an image than images of that region are."""
    ratios = nearness(samples, images)[0]
    return wilson(int((ratios < _NEAR).sum()), len(ratios), confidence)


@metric(
    "images_drawn",
    title="drawn",
    summary="share of the planted images that a sample equals, within 0.1 root mean square of pixels",
    over="finding",
    counted=True,
    form="percent",
    digits=0,
    limits=(0.0, 1.0),
)
def images_drawn(is_drawn: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Return the share with Wilson's interval, n the number of planted images."""
    return wilson(sum(is_drawn), len(is_drawn), confidence)


def nearness(samples: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each sample its distance to the nearest image over the mean one to its 50 nearest, and which that is.

    Images that are repeated count once.
    """
    flat = images.flatten(1).unique(dim=0)
    distances = torch.cdist(samples.flatten(1).double(), flat.double())
    near = distances.topk(min(_NEIGHBOURS, len(flat)), largest=False).values
    place = torch.cdist(samples.flatten(1).double(), images.flatten(1).double()).argmin(1)
    return near[:, 0] / near.mean(1).clamp_min(1e-12), place


def is_among(samples: Tensor, image: Tensor) -> bool:
    """Tell whether a sample is an image again, both in pixels."""
    return bool(((samples - image).square().flatten(1).mean(1).sqrt() < SAME).any())
