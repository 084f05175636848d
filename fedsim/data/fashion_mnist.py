"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 grey pixels, ten balanced classes.

Source: Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747; the Debian package dataset-fashion-mnist or a copy that
torchvision downloaded. The images show products without people, and are harder to guess from the class than digits.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from pydantic import Field

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._facts import FASHION_MNIST
from fedsim.data._images import ImageConfig, Images, images_from_arrays, normalise

_UNSIGNED_BYTES = 8


class FashionMnistConfig(ImageConfig):
    """Settings of Fashion-MNIST."""

    path: Path = Field(
        default=Path("/usr/share/datasets/fashion-mnist"),
        description="folder of the four IDX files (gzipped or not), or a torchvision root with FashionMNIST/raw",
    )


@dataset("fashion-mnist", summary="60,000 + 10,000 images of clothes, 28x28 grey", paper="1708.07747")
def fashion_mnist(config: FashionMnistConfig) -> Dataset:
    """Load the images.

    Raises:
        MissingExtra: no IDX files exist at `path`.
        FedsimError: a file is corrupt.
    """
    return normalise(config, _images(config.path, "train"), _images(config.path, "t10k"), FASHION_MNIST)


def _images(folder: Path, part: str) -> Images:
    pixels = _idx(_file(folder, f"{part}-images-idx3-ubyte"))
    labels = _idx(_file(folder, f"{part}-labels-idx1-ubyte"))
    if len(pixels) != len(labels):
        raise FedsimError(
            f"{folder} has {len(pixels)} {part} images but {len(labels)} labels. Download the files again."
        )
    return images_from_arrays(pixels, labels)


def _file(folder: Path, name: str) -> Path:
    for parent in (folder, folder / "FashionMNIST" / "raw"):
        for candidate in (parent / f"{name}.gz", parent / name):
            if candidate.is_file():
                return candidate
    raise MissingExtra(
        f"Fashion-MNIST ({name}[.gz] in {folder} or its FashionMNIST/raw)", "apt-get install dataset-fashion-mnist"
    )


def _idx(file: Path) -> np.ndarray:
    """Return the array of an IDX file: two zero bytes, type, rank, big-endian extents, values."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zeros, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise FedsimError(f"cannot read {file}: {error}. Download the file again.") from error
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if zeros or kind != _UNSIGNED_BYTES or math.prod(shape) != values.size:
        raise FedsimError(f"{file} is not an IDX file of {shape} unsigned bytes. Download the file again.")
    return values.reshape(shape).copy()
