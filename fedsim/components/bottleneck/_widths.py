"""Input and output widths of a module, read from the attributes of its layers."""

from __future__ import annotations

from torch import nn


def width_of(model: nn.Module, place: str) -> int | None:
    """Return the output width of the last layer up to and within this module (registration order) that has one."""
    width, is_inside = None, False
    for name, module in model.named_modules():
        if is_inside and not name.startswith(f"{place}."):
            break
        is_inside = is_inside or name == place
        size = next((getattr(module, key) for key in ("out_features", "out_channels") if hasattr(module, key)), None)
        width = size if isinstance(size, int) else width
    return width


def width_into(model: nn.Module, place: str) -> int | None:
    """Return the input width of a module's first layer, in registration order, that has one."""
    for module in model.get_submodule(place).modules():
        for key in ("in_features", "in_channels"):
            size = getattr(module, key, None)
            if isinstance(size, int):
                return size
    return None
