"""Photographs with names, their features in EfficientNet-Lite0, and translators of them for SmolLM2: made once, cached.

Photographs are read from the folder that FEDSIM_PHOTOS names: one a class of ImageNet, called ID_NAME.JPEG, as in
EliSchwartz/imagenet-sample-images on GitHub. CIFAR-10 is the pack or folder that FEDSIM_CIFAR10 names.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._decoding import news, real_model
from fedsim.components.probe._translator import Translator
from fedsim.components.probe.devil import Devil, DevilConfig, Language
from fedsim.core import checkpoints, registry, seeding
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.layer_calls import layer_outputs
from fedsim.core.types import InputSpec, Tokenizer
from fedsim.data._images import decode, fitted

LAYERS = {"block 4": 40, "block 10": 112, "last": 1280}  # name: channels
_MODULES = ("_blocks.4", "_blocks.10", "_bn1")
GRID, PIXELS, END = 7, 224, 0
_VIEWS = 8
SETTINGS = DevilConfig(width=256, blocks=3, heads=4, prompts=2, steps=240, batch=16, rate=1e-3)
CAPTIONED = 20  # images of each class of CIFAR-10 that are captioned


class Captioned(NamedTuple):
    """Features of each layer (N, C, 7, 7), and a name for each image."""

    features: list[Tensor]
    names: list[str]


def folder(variable: str, what: str) -> Path:
    """Return the path that a variable of the environment names.

    Raises:
        FedsimError: it is not set, or there is nothing.
    """
    path = Path(os.environ.get(variable, ""))
    if not os.environ.get(variable) or not path.exists():
        raise FedsimError(f"set {variable} to {what}.")
    return path


@cache
def photographs() -> tuple[list[Path], list[str]]:
    """Return files and names of the photographs, one a class of ImageNet, in the order of the classes."""
    files = sorted(folder("FEDSIM_PHOTOS", "a folder of photographs called ID_NAME.JPEG, one a class").glob("*.JPEG"))
    return files, [file.stem.partition("_")[2].replace("_", " ").lower() for file in files]


@cache
def samples() -> tuple[list[Tensor], list[int]]:
    """Return foolbox's 20 photographs of ImageNet, and the class of each. None of them is trained on.

    Raises:
        MissingExtra: foolbox is not installed.
    """
    package = importlib.util.find_spec("foolbox")
    if package is None or package.origin is None:
        raise MissingExtra("foolbox, which holds the photographs,", "pip install --no-deps foolbox==3.3.4")
    files = sorted((Path(package.origin).parent / "data").glob("imagenet_*"))
    return [load(file) for file in files], [int(file.stem.rpartition("_")[2]) for file in files]


@cache
def network() -> nn.Module:
    """Return the frozen network, which reads pixels in [0, 1]."""
    method = registry.get("model", "efficientnet-lite0")
    spec = InputSpec((3, PIXELS, PIXELS), 10, (0.0,) * 3, (1.0,) * 3)
    with seeding.isolate_randomness(0):
        return method.make(method.config(), spec).eval()


@torch.no_grad()
def read(images: Iterable[Tensor]) -> list[Tensor]:
    """Return features of images (3, 224, 224), each layer averaged to the grid of the deepest."""
    parts: list[list[Tensor]] = [[] for _ in LAYERS]
    names = [f"encoder.network.{module}" for module in _MODULES]
    for image in images:
        with layer_outputs(network(), names) as seen:
            network()(image[None])
        for part, (_, features) in zip(parts, seen, strict=True):
            part.append(F.adaptive_avg_pool2d(features, GRID).half())
    return [torch.cat(pieces) for pieces in parts]


def load(file: Path) -> Tensor:
    """Return the pixels of a photograph (3, 224, 224)."""
    return (fitted(decode(file, str(file)), PIXELS)[0].float() / 255).expand(3, -1, -1)


@cache
def captioned_images() -> Captioned:
    """Return what translators learn from: one photograph of each class of the samples, and images of CIFAR-10.

    Each photograph is there eight times: as it is, and in parts of three quarters, which are mirrored.
    """
    every, named = photographs()
    chosen = sorted(set(samples()[1]))
    source = torch.Generator().manual_seed(0)

    def views() -> Iterator[Tensor]:
        for image in (load(every[number]) for number in chosen):
            yield image
            for _ in range(_VIEWS - 1):
                top, left = torch.randint(0, PIXELS // 4, (2,), generator=source).tolist()
                part = image[None, :, top : top + 3 * PIXELS // 4, left : left + 3 * PIXELS // 4]
                yield F.interpolate(part, (PIXELS, PIXELS), mode="bilinear").flip(-1)[0]

    small, labels = cifar("train", CAPTIONED)
    features = [torch.cat(pair) for pair in zip(read(views()), read(small), strict=True)]
    return Captioned(features, [named[number] for number in chosen for _ in range(_VIEWS)] + labels)


def cifar(part: str, each: int) -> tuple[Tensor, list[str]]:
    """Return images of CIFAR-10 (N, 3, 224, 224), as many of each class, and the names of their classes."""
    method = registry.get("dataset", "cifar10")
    path = folder("FEDSIM_CIFAR10", "a torchvision root or pack of CIFAR-10")
    data = method.make(method.config.model_validate({"path": path, "train": 10 * each, "test": 10 * each}))
    batch = data.train if part == "train" else data.test
    mean, std = (torch.tensor(statistic).view(-1, 1, 1) for statistic in (data.spec.mean, data.spec.std))
    pixels = F.interpolate(batch.inputs * std + mean, (PIXELS, PIXELS), mode="bicubic").clamp(0, 1)
    return pixels, [CIFAR[label] for label in batch.labels.tolist()]


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@cache
def tokenizer() -> Tokenizer:
    """Return the language model's tokenizer."""
    words = news(8).tokenizer
    assert words is not None
    return words


@cache
def language() -> Language:
    """Return the language model in half precision, which takes half the time."""
    return Language(real_model().bfloat16(), END)


def tokens(name: str) -> list[int]:
    """Return a caption: the name, and the end of the text."""
    return [*map(int, tokenizer().encode(f" {name}")), END]


def translator(is_dropping: bool = True) -> Translator:
    """Return a trained translator; without dropping, neither places nor layers were left out while it learned."""
    rates = {} if is_dropping else {"hidden_places": 0.0, "hidden_layers": 0.0}
    method = Devil(SETTINGS.model_copy(update=rates))
    made = method.make_translator(list(LAYERS.values()), language().width, torch.Generator().manual_seed(0))

    def make(path: Path) -> None:
        known = captioned_images()
        captions: Sequence[list[int]] = [tokens(name) for name in known.names]
        costs = method.train(made, language(), known.features, captions, torch.Generator().manual_seed(1))
        torch.save({"weights": made.state_dict(), "costs": torch.tensor(costs)}, path / "translator.pt")

    name = f"devil-{SETTINGS.steps}-{'dropping' if is_dropping else 'whole'}-2"
    path = checkpoints.make_once(name, make, takes="ten minutes")
    made.load_state_dict(torch.load(path / "translator.pt", weights_only=True)["weights"])
    return made.eval()


if __name__ == "__main__":
    torch.set_num_threads(1)
    translator()
