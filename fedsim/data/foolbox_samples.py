"""Twenty images each of CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST and ImageNet, from foolbox.

Source: Rauber, Brendel, Bethge 2017, arXiv 1707.04131. Only the data files of the package are read. The twenty images
are both training and test set: use them as victims; an accuracy on them is meaningless. The ImageNet photographs show
people and places, and are the only full-size images that need no download.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from fedsim.core.errors import MissingExtra
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._facts import CIFAR10, CIFAR100, FASHION_MNIST, IMAGENET, MNIST
from fedsim.data._images import ImageConfig, Images, decode, fit_to_square, normalise
from fedsim.data._shipped import PHOTOGRAPHS_INSTALL

_FACTS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "mnist": MNIST, "fashionMNIST": FASHION_MNIST, "imagenet": IMAGENET}


class FoolboxSamplesConfig(ImageConfig):
    """Settings of foolbox-samples; the size of ImageNet images is 224 when absent."""

    collection: Literal["cifar10", "cifar100", "mnist", "fashionMNIST", "imagenet"] = Field(
        default="cifar10", description="collection of the twenty images"
    )


@dataset("foolbox-samples", summary="20 images of CIFAR, MNIST or ImageNet from foolbox", paper="1707.04131")
def foolbox_samples(config: FoolboxSamplesConfig) -> Dataset:
    """Load the twenty images of a collection.

    Raises:
        MissingExtra: foolbox is not installed.
    """
    package = importlib.util.find_spec("foolbox")
    if package is None or package.origin is None:
        raise MissingExtra("foolbox, which holds the data set 'foolbox-samples',", PHOTOGRAPHS_INSTALL)
    files = sorted((Path(package.origin).parent / "data").glob(f"{config.collection}_*"))
    size = 224 if config.collection == "imagenet" and config.size is None else config.size
    pixels = torch.cat([fit_to_square(decode(file, str(file)), size) for file in files])
    labels = torch.tensor([int(file.stem.rpartition("_")[2]) for file in files])
    images = Images(labels, lambda chosen: pixels[chosen])
    return normalise(config, images, images, _FACTS[config.collection])
