"""A small digit classifier, embedded in a page to classify a viewer's drawing."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.types import Batch, InputSpec
from fedsim.demo.victim import CLASSES, SIDE, Setting, world_of
from fedsim.metrics.image import to_pixels

_UNITS = 48
_EPOCHS, _BATCH, _RATE = 15, 100, 2e-3
_LARGEST = 127  # weights are stored as signed integers of a byte
_DIGITS = 5

Layer = tuple[Tensor, Tensor]


@cache
def classifier() -> dict[str, Any]:
    """Train on the handwritten digits, and return the layers as JSON has them: rounded weights, a scale, biases.

    Raises:
        MissingExtra: the digits are not installed.
    """
    dataset = world_of(Setting()).data.dataset
    return {"layers": [_quantise_layer(weights, biases) for weights, biases in train(dataset.train, dataset.spec)]}


def train(batch: Batch, spec: InputSpec) -> tuple[Layer, Layer]:
    """Return the two layers, which read pixels in [0, 1]."""
    pixels, labels = to_pixels(batch.inputs, spec).flatten(1), batch.labels
    source = seeding.generator(0, "classifier")
    layers = [_layer(SIDE * SIDE, _UNITS, source), _layer(_UNITS, CLASSES, source)]
    parameters = [part for layer in layers for part in layer]
    optimizer = torch.optim.Adam(parameters, lr=_RATE, weight_decay=1e-4)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(labels), generator=source).split(_BATCH):
            optimizer.zero_grad()
            F.cross_entropy(scores(layers, pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
    (first, second) = ((weights.detach(), biases.detach()) for weights, biases in layers)
    return first, second


def scores(layers: list[Layer] | tuple[Layer, ...], pixels: Tensor) -> Tensor:
    """Return the logits of the digits, shape (B, 10), for pixels of shape (B, 784)."""
    (first, bias), (second, last) = layers
    return F.linear(F.linear(pixels, first, bias).relu(), second, last)


def _layer(inputs: int, outputs: int, source: torch.Generator) -> Layer:
    weights = torch.randn((outputs, inputs), generator=source) * (2 / inputs) ** 0.5
    return weights.requires_grad_(), torch.zeros(outputs).requires_grad_()


def _quantise_layer(weights: Tensor, biases: Tensor) -> dict[str, Any]:
    scale = float(weights.abs().max()) / _LARGEST
    whole = (weights / scale).round().int().tolist()
    return {"weights": whole, "scale": scale, "biases": [round(bias, _DIGITS) for bias in biases.tolist()]}
