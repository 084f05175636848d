"""Extraction of training images from a diffusion model: near copies among its samples.

A sample is a copy if its distance to the nearest training image is less than half of its mean distance to the 50
nearest (after Carlini et al. 2023, arXiv 2301.13188). A planted image counts as extracted if a sample's root mean
square difference in pixels is below a tenth.
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
"""Root mean square difference in pixels below which a sample equals an image."""


@metric(
    "copied_share",
    title="copied",
    summary="share of the samples that are less than half as far from a training image as from its 50 neighbours",
    related="2301.13188",
    over="finding",
    counted=True,
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def copied_share(samples: Tensor, images: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of samples (N, C, H, W) that are copies of an image, with Wilson's interval."""
    ratios = nearness(samples, images)[0]
    return wilson(int((ratios < _NEAR).sum()), len(ratios), confidence)


@metric(
    "image_extraction_rate",
    title="drawn",
    summary="share of the planted images that a sample equals, within 0.1 root mean square of pixels",
    over="finding",
    counted=True,
    form="percent",
    digits=0,
    limits=(0.0, 1.0),
)
def image_extraction_rate(is_drawn: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Return the share with Wilson's interval, n the number of planted images."""
    return wilson(sum(is_drawn), len(is_drawn), confidence)


def nearness(samples: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return per sample the nearest distance over the mean distance of the 50 nearest images, and the nearest index.

    Repeated images count once.
    """
    flat = images.flatten(1).unique(dim=0)
    distances = torch.cdist(samples.flatten(1).double(), flat.double())
    nearest = distances.topk(min(_NEIGHBOURS, len(flat)), largest=False).values
    place = torch.cdist(samples.flatten(1).double(), images.flatten(1).double()).argmin(1)
    return nearest[:, 0] / nearest.mean(1).clamp_min(1e-12), place


def is_among(samples: Tensor, image: Tensor) -> bool:
    """Return whether any sample equals an image, both in pixels."""
    return bool(((samples - image).square().flatten(1).mean(1).sqrt() < SAME).any())
