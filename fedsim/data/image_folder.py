"""Your own photographs: a folder with a subfolder of PNG or JPEG files per class, read as RGB.

Source: none (no arXiv id). Images are normalised with the ImageNet constants. Leakage: everything in the photographs,
so fedsim copies none of them; reports show the attacked examples.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._facts import IMAGENET
from fedsim.data._images import ImageConfig, Images, decode, fit_to_square, normalise, split

_SUFFIXES = {".png", ".jpg", ".jpeg"}


class ImageFolderConfig(ImageConfig):
    """Settings of image-folder."""

    path: Path = Field(description="folder with a subfolder of PNG or JPEG files per class")
    size: int | None = Field(
        default=64, ge=1, description="height and width in pixels; may be unset if all files have the same size"
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every class for the test set")


@dataset("image-folder", summary="your own PNG and JPEG files, a subfolder per class")
def image_folder(config: ImageFolderConfig) -> Dataset:
    """Load the images.

    Raises:
        FedsimError: no such folder, too few images, a corrupt image, or different sizes without `size`.
    """
    classes = _classes(config.path)
    files = [file for members in classes.values() for file in members]
    labels = torch.tensor([label for label, members in enumerate(classes.values()) for _ in members])

    def read(chosen: Tensor) -> Tensor:
        return _stack([files[index] for index in chosen.tolist()], config.size)

    train, test = split(Images(labels, read), config.test_fraction, config.seed)
    if not len(test.labels):
        raise FedsimError(
            f"no class in {config.path} has enough images to keep {config.test_fraction:.0%} for testing: "
            f"expected at least {math.ceil(1 / config.test_fraction)}. Add images or raise test_fraction."
        )
    return normalise(config, train, test, replace(IMAGENET, class_names=tuple(classes)))


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of every class, both in alphabetical order."""
    if not folder.is_dir():
        raise FedsimError(f"no folder {folder}: expected a folder with a subfolder of images per class.")
    files_by_class = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in _SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir()
    }
    empty = [name for name, files in files_by_class.items() if not files]
    if empty:
        raise FedsimError(f"{folder / empty[0]} holds no PNG or JPEG file. Add images or remove the folder.")
    if not files_by_class:
        raise FedsimError(f"{folder} has no subfolders: expected a subfolder per class.")
    return files_by_class


def _stack(files: list[Path], size: int | None) -> Tensor:
    images = [fit_to_square(decode(file, str(file)).expand(1, 3, -1, -1), size) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            expected, actual = (" x ".join(map(str, i.shape[-2:])) for i in (images[0], image))
            raise FedsimError(f"{file} has {actual} pixels, {files[0]} has {expected}. Set data.size.")
    return torch.cat(images)
