"""Layers of any torch model: found, and replaced in place."""

from __future__ import annotations

from torch import nn

from fedsim.core.errors import NotApplicable


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the linear layer that was registered last, with its name: in classifiers, the one that gives the logits.

    Raises:
        NotApplicable: the model has none.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise NotApplicable("the model has no linear layer")
    return found[-1]


def with_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Return the model with another module under that name; it is the same object, unless the name is its own, ''."""
    if not name:
        return module
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
    return model
