"""Which number k of ordered features a classifier does best with: its accuracy at every k, in one pass.

Logits at k are the cumulative sum of h_j W_j over j = 1, ..., k, so all D of them cost one product. Needs a linear
classifier right behind the features; a bias is added at every k. Paper: Chen et al. 2022, arXiv 2206.13140, whose
networks have no bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError

TIE = 1e-5
"""Accuracy that one more feature must gain: ties go to the shorter code."""


def features_and_head(model: nn.Module, inputs: Tensor) -> tuple[Tensor, nn.Linear]:
    """Return what the last linear layer of a model gets in evaluation, shape (N, D), and that layer.

    Raises:
        FedsimError: the model's output is not that of a linear layer on vectors.
    """
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def note(layer: nn.Linear, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0], output))

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_hook(partial(note, layer)) for layer in layers]
    was_training = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    layer, features, output = calls[-1] if calls else (None, inputs, inputs)
    if layer is None or output is not outputs or features.dim() != 2:  # noqa: PLR2004
        raise FedsimError("a prefix is chosen in front of a linear classifier, and the model does not end in one.")
    return features, layer


def prefix_logits(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Iterator[Tensor]:
    """Yield the logits (N, K) of the first k features, for k = 1, ..., D.

    Args:
        features: all of them, shape (N, D).
        weight: of the classifier, shape (K, D).
        bias: shape (K,), or None.
    """
    logits = torch.zeros(len(features), len(weight), dtype=features.dtype) + (0.0 if bias is None else bias)
    for feature, column in zip(features.unbind(1), weight.unbind(1), strict=True):
        logits = logits + torch.outer(feature, column)
        yield logits


def prefix_accuracies(logits: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Return the share of right answers at every k, shape (D,), float64.

    Args:
        logits: of every k, shape (N, K); for two networks the mean of theirs.
        labels: classes of validation examples (N,); never of the test set.
    """
    return torch.stack([(logit.argmax(1) == labels).double().mean() for logit in logits])


def best_prefix(accuracies: Tensor) -> int:
    """Return the k with the largest acc(k) - 1e-5 (k - 1), from 1."""
    return 1 + int((accuracies - TIE * torch.arange(len(accuracies))).argmax())
