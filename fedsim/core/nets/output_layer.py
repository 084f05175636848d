"""Lookup of the output layer, by the order in which layers are registered."""

from __future__ import annotations

from torch import nn


def output_layer(model: nn.Module, classes: int | None = None) -> tuple[str, nn.Linear] | None:
    """Return the linear layer that computes the model's outputs, with its name, or None.

    If the number of outputs is known, it is the last linear layer of that width, even if other modules, such as a
    bottleneck or a second head of another width, are registered after it. Otherwise it is the last module with
    parameters of its own, if that is linear.

    Args:
        model: model whose layers are registered in call order.
        classes: number of the model's outputs, if known.
    """
    if classes is None:
        return _last_owner(model)
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    fitting = [(name, layer) for name, layer in linear if layer.out_features == classes]
    return fitting[-1] if fitting else None


def _last_owner(model: nn.Module) -> tuple[str, nn.Linear] | None:
    owners = [
        (name, candidate)
        for name, candidate in model.named_modules()
        if next(candidate.parameters(recurse=False), None) is not None
    ]
    name, module = owners[-1] if owners else ("", model)
    return (name, module) if isinstance(module, nn.Linear) else None
