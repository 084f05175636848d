"""Small residual networks, and what a client with digits sends of them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.core.client_gradient import client_gradient
from fedsim.core import registry, seeding
from fedsim.core.types import Masks, Observation
from tests.attacks.second_order.solved import toy


def group(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: Any = group, activation: Any = nn.SiLU) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([norm(outputs), norm(outputs)])
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
        self.activations = nn.ModuleList([activation(), activation()])

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.activations[0](self.norms[0](self.first(images)))
        hidden = self.norms[1](self.second(hidden))
        hidden += self.shortcut(images)
        return self.activations[1](hidden)


def residual(
    *widths: int, norm: Any = group, activation: Any = nn.SiLU, channels: int = 1, rate: float = 0.0, seed: int = 0
) -> nn.Module:
    """A stem, a block for each width, with stride 2 where it is another than before, pooling and a head."""
    with seeding.isolate_randomness(seed):
        layers = [nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), norm(widths[0]), activation()]
        for before, after in zip((widths[0], *widths), widths, strict=False):
            layers.append(Block(before, after, 1 if before == after else 2, norm, activation))
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(rate), nn.Linear(widths[-1], 10))
        return nn.Sequential(*layers, *head)


def of_digits(model: nn.Module, count: int = 1, side: int = 8) -> tuple[Observation, Tensor]:
    """What an attacker sees of the gradient of some digits in single precision, labels unknown; and the digits."""
    observation, truth = toy(model, (1, side, side), count, classes=10, dtype=torch.float32)
    digits = registry.get("dataset", "digits")
    data = digits.make(digits.config(size=side))
    images = torch.stack([image.contiguous() for image in data.train.inputs[:count]])  # as loaders do it
    labels = data.train.labels[:count]
    masks: Masks = truth.masks[0]
    tensors = client_gradient(observation, images, labels, masks)
    update = replace(observation.update, tensors=tensors)
    return replace(observation, labels=None, spec=data.spec, update=update), images
