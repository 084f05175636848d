"""Replace a layer of any torch model in place."""

from __future__ import annotations

from torch import nn


def with_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Return the model with `module` under that name: the same object, or `module` itself if the name is ''."""
    if not name:
        return module
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    return model
