"""Layers of any torch model, replaced in place."""

from __future__ import annotations

from torch import nn


def with_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Return the model with another module under that name; it is the same object, unless the name is its own, ''."""
    if not name:
        return module
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
    return model
