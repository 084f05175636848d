"""CIFAR-10: 50,000 training and 10,000 test photographs, 32x32 colour pixels, ten balanced classes.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images" (no arXiv id). It is read from a
torchvision root, or from a pack of JPEG files as an .npz file with the arrays ``train_jpeg``, ``train_offset``,
``train_label``, and the same for ``test``. Its images are the usual victims of gradient inversion. A JPEG copy has less
fine detail than the original, so its scores are not comparable with those of a paper.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from fedsim.core.errors import FedsimError
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._facts import CIFAR10
from fedsim.data._images import ImageConfig, Images, decode_bytes, images_from_arrays, normalise


class Cifar10Config(ImageConfig):
    """Settings of CIFAR-10."""

    path: Path = Field(description="a torchvision root that holds cifar-10-batches-py, or a .npz pack of JPEG files")


@dataset("cifar10", summary="60,000 photographs in ten classes, 32x32 colour; from your own copy")
def cifar10(config: Cifar10Config) -> Dataset:
    """Load the images.

    Raises:
        FedsimError: `path` has no complete data set.
    """
    read = _pack if config.path.suffix == ".npz" else _batches
    return normalise(config, read(config.path, "train"), read(config.path, "test"), CIFAR10)


def _pack(file: Path, part: str) -> Images:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as pack:
            content, offsets, labels = (pack[f"{part}_{name}"] for name in ("jpeg", "offset", "label"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FedsimError(f"cannot read {file} as a pack of CIFAR-10 JPEG files: {error}.") from error

    def read(chosen: torch.Tensor) -> torch.Tensor:
        spans = [(offsets[index], offsets[index + 1], index) for index in chosen.tolist()]
        return torch.cat([decode_bytes(content[a:b].tobytes(), f"{part} {i} of {file}") for a, b, i in spans])

    return Images(torch.from_numpy(labels.astype(np.int64)), read)


def _batches(root: Path, part: str) -> Images:
    from torchvision.datasets import CIFAR10 as Batches  # noqa: N811, PLC0415

    try:
        with warnings.catch_warnings():
            # The files were pickled by a NumPy of 2009; newer versions warn about the dtype format.
            warnings.filterwarnings("ignore", r"dtype\(\): align should be passed")
            batches = Batches(str(root), train=part == "train", download=False)
    except RuntimeError as error:
        raise FedsimError(
            f"no complete CIFAR-10 in {root}: expected {root / 'cifar-10-batches-py'} as "
            "torchvision unpacks it, or a path that ends in .npz."
        ) from error
    return images_from_arrays(batches.data, np.array(batches.targets))
