"""Shared code of image sets: select examples, resize and normalise them.

A set provides its labels and a function that reads pixels, so only the selected images are decoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.regular_files import open_regular
from fedsim.core.types import Batch, Config, Dataset, InputSpec
from fedsim.data._attributes import split_at_median
from fedsim.data._canaries import plant
from fedsim.data._facts import ImageFacts


class ImageConfig(Config):
    """Settings of every image set."""

    size: int | None = Field(
        default=None,
        ge=1,
        description="height and width in pixels: smaller images are padded with black, larger images are "
        "shrunk until the shorter side fits and cropped at the centre; unset: the stored size",
    )
    train: int | None = Field(default=None, ge=1, description="at most this many training examples; all when absent")
    test: int | None = Field(default=None, ge=1, description="at most this many test examples; all when absent")
    seed: int = Field(
        default=0,
        ge=0,
        description="seed of the examples' order, which selects the examples within a limit; not the scenario's seed",
    )
    canaries: int = Field(default=0, ge=0, description="random images that are planted in the training set")
    repetitions: tuple[int, ...] = Field(
        default=(0, 1, 4, 16, 64), min_length=1, description="numbers of copies of a canary, in turn"
    )


@dataclass(frozen=True)
class Images:
    """Labelled images that are read on demand.

    Attributes:
        labels: class of each image, int64, shape (N,).
        read: maps indices (n,) to pixels, uint8, shape (n, C, H, W).
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]


def images_from_arrays(pixels: np.ndarray, labels: np.ndarray) -> Images:
    """Return images from uint8 pixels of shape (N, H, W) or (N, H, W, C)."""
    channels_last = torch.from_numpy(pixels.reshape(*pixels.shape[:3], -1))
    stored = channels_last.permute(0, 3, 1, 2)
    return Images(torch.from_numpy(labels.astype(np.int64)), lambda chosen: stored[chosen])


def split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Return (train, test); test has this fraction of every class, rounded down."""
    order, place = _shuffle_within_classes(images.labels, seeding.generator(seed, "test split"))
    counts = images.labels.bincount()
    is_test = place < (counts * fraction + 1e-9).floor()[images.labels[order]]
    return _subset(images, order[~is_test]), _subset(images, order[is_test])


def normalise(config: ImageConfig, train: Images, test: Images, facts: ImageFacts) -> Dataset:
    """Select, resize and normalise examples.

    The order is random, and classes alternate from the beginning: a limited set is as balanced as the classes allow,
    and a
    larger limit is a superset of a smaller limit.

    Raises:
        FedsimError: an image that cannot be read.
    """
    train_batch, test_batch = _batch(config, train, config.train, facts), _batch(config, test, config.test, facts)
    shape = tuple(train_batch.inputs.shape[1:])
    spec = InputSpec(shape, len(facts.class_names), facts.mean, facts.std)
    attributes = {
        "brightness": split_at_median([batch.inputs.flatten(1).mean(1) for batch in (train_batch, test_batch)])
    }
    data = Dataset(train_batch, test_batch, spec, facts.class_names, attributes=attributes, task="classification")
    return plant(data, config.canaries, config.repetitions, config.seed) if config.canaries else data


def select_indices(labels: Tensor, limit: int | None, seed: int) -> Tensor:
    """Return the indices of the images that `normalise` keeps under a limit, in their order."""
    order, place = _shuffle_within_classes(labels, seeding.generator(seed, "order of examples"))
    return order[place.argsort(stable=True)][:limit]


def fit_to_square(pixels: Tensor, size: int | None) -> Tensor:
    """Shrink images (N, C, H, W), uint8, to a shorter side of `size`, then crop or pad them to a square.

    Shrinking is bilinear with antialiasing; no image is enlarged.
    """
    if size is None:
        return pixels
    height, width = pixels.shape[-2:]
    if min(height, width) > size:
        scale = size / min(height, width)
        shape = (round(height * scale), round(width * scale))
        small = F.interpolate(pixels.float(), shape, mode="bilinear", antialias=True)
        pixels = small.round().clamp(0, 255).to(torch.uint8)
    return _centre(pixels, size)


def decode(source: Path | BinaryIO, name: str) -> Tensor:
    """Decode a PNG or JPEG file to uint8: a grey image to (1, 1, H, W), any other to (1, 3, H, W).

    Raises:
        FedsimError: the image is corrupt; the message names it.
    """
    try:
        file = open_regular(source) if isinstance(source, Path) else source
        with file, Image.open(file) as image:
            pixels = np.array(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FedsimError(f"cannot read the image {name}: {error}. Replace or remove it.") from error
    return torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1)).permute(0, 3, 1, 2)


def decode_bytes(content: bytes, name: str) -> Tensor:
    """Decode an image in memory, like `decode`."""
    return decode(io.BytesIO(content), name)


def _batch(config: ImageConfig, images: Images, limit: int | None, facts: ImageFacts) -> Batch:
    chosen = select_indices(images.labels, limit, config.seed)
    pixels = fit_to_square(images.read(chosen), config.size)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    return Batch(pixels.float().div_(255).sub_(mean).div_(std), images.labels[chosen])


def _shuffle_within_classes(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a random order of the examples, and the rank of each example within its class."""
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    counts = shuffled.bincount()
    place = torch.empty_like(order)
    place[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[shuffled[by_class]]
    return order, place


def _subset(images: Images, indices: Tensor) -> Images:
    return Images(images.labels[indices], lambda chosen: images.read(indices[chosen]))


def _centre(pixels: Tensor, size: int) -> Tensor:
    """Crop or pad (with black) both sides to `size` around the centre."""
    height, width = pixels.shape[-2:]
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(pixels, (left, size - width - left, top, size - height - top))
