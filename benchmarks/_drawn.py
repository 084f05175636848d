"""Samples of trained denoisers, features in which they are compared with data, and pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.core import checkpoints, registry, seeding
from fedsim.core.errors import MissingExtra
from fedsim.core.hooks import Condition
from fedsim.core.types import Dataset, InputSpec
from fedsim.generation import sample
from fedsim.metrics.image import to_pixels

Features = Callable[[Tensor], Tensor]
AT_ONCE = 250
_STEPS, _BATCH, _RATE, _WIDTH = 1500, 64, 2e-3, 64
_SIDE = 64  # pixels at the input of EfficientNet, which was trained at 224


def draw(model: nn.Module, name: str, settings: Mapping[str, Any], spec: InputSpec, count: int, seed: int) -> Tensor:
    """Return samples (N, C, H, W) of all classes in turn; the same seed gives every sampler the same noise."""
    method = registry.get("component", name)
    sampler = method.make(method.config.model_validate(dict(settings)))
    classes = torch.arange(count) % spec.classes
    sources = seeding.generators(seed, "drawing", [(number,) for number in range(count)])
    samples = sample(sampler, model, Condition(((),) * count, {"class": classes}), spec.shape, sources, at_once=AT_ONCE)
    return torch.stack([generated.x for generated in samples if generated.x is not None])


def classifier_features(data: Dataset, name: str) -> Features:
    """Return the 64 features of a small classifier that was trained once on the training set."""

    def make(folder: Path) -> None:
        model = _classifier(data.spec)
        optimizer = torch.optim.Adam(model.parameters(), _RATE)
        source = torch.Generator().manual_seed(0)
        for _ in range(_STEPS):
            batch = data.train.taken(torch.randint(len(data.train), (_BATCH,), generator=source))
            optimizer.zero_grad()
            cross_entropy(model(batch.inputs), batch.labels).backward()
            optimizer.step()
        torch.save(model.state_dict(), folder / "weights.pt")

    folder = checkpoints.make_once(f"features-{name}-{_STEPS}", make, takes="a minute")
    model = _classifier(data.spec)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return _in_pieces(nn.Sequential(*list(model)[:-1]))


def efficientnet_features(spec: InputSpec) -> Features | None:
    """Return the 1280 features of EfficientNet-Lite0; None where the extra is not installed."""
    method = registry.get("model", "efficientnet-lite0")
    try:
        network: Any = method.make(method.config.model_validate({"size": _SIDE}), spec)
    except MissingExtra:
        return None
    return _in_pieces(network.encoder)


def save_pictures(images: Sequence[Tensor], spec: InputSpec, file: Path, larger: int = 2) -> None:
    """Write rows of images as one PNG, each row a tensor (N, C, H, W)."""
    rows = []
    for row in images:
        pixels = np.asarray(to_pixels(row, spec)).transpose(0, 2, 3, 1)
        rows.append(np.concatenate([np.pad(one, ((1, 1), (1, 1), (0, 0)), constant_values=1.0) for one in pixels], 1))
    whole = (np.concatenate(rows, 0) * 255).round().astype(np.uint8)
    picture = Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width * larger, picture.height * larger), Image.Resampling.NEAREST).save(
        file, optimize=True
    )


def _classifier(spec: InputSpec) -> nn.Sequential:
    channels, height, width = spec.shape
    with seeding.isolate_randomness(0):
        return nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), _WIDTH),
            nn.ReLU(),
            nn.Linear(_WIDTH, spec.classes),
        )


def _in_pieces(model: nn.Module) -> Features:
    model.eval()

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return torch.cat([model(part) for part in images.split(AT_ONCE)])

    return features
