"""Base class of attention layouts: the names of an attention module's layers that read the same input.

All other properties of a text model are measured by running it: causal attention and position awareness. A model that
names its layers differently therefore needs a single file with an `Attention`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.types.configured import ConfigT, ConfiguredMethod

_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")


class Attention(ConfiguredMethod[ConfigT]):
    """Attention layout of a transformer with numbered blocks. Subclasses define `readers`.

    Attributes:
        readers: names of the layers of an attention module that read the same input; attacks use the first.
    """

    readers: ClassVar[tuple[str, ...]]

    def rows(self, layer: nn.Module, gradient: Tensor) -> Tensor:
        """Return the gradient of a layer's weight as (outputs, inputs), the layout of most layers."""
        return gradient

    @classmethod
    def is_at(cls, place: nn.Module) -> bool:
        """Return whether a module holds all the readers."""
        return all(isinstance(getattr(place, reader, None), nn.Module) for reader in cls.readers)


def attentions(model: nn.Module) -> list[str]:
    """Return the name of the first reader in each block's attention, first block first."""
    named = ((name, kind_at(module)) for name, module in model.named_modules())
    readers = [f"{place}.{kind.readers[0]}" for place, kind in named if kind is not None]
    return [name for name in readers if _IN_A_BLOCK.search(name)]


def kind_at(place: nn.Module) -> Attention[Any] | None:
    """Return the attention layout of a module, or None."""
    return next((kind for kind in _kinds() if kind.is_at(place)), None)


def fewer_than(count: int, model: nn.Module) -> str | None:
    """Return a clause if a model has fewer attention modules than `count`, with the known layouts; else None."""
    if len(attentions(model)) >= count:
        return None
    known = "; ".join(f"{kind.name} ({', '.join(kind.readers)})" for kind in _kinds())
    return f"the model does not have {count} attentions of a kind of `fedsim list attentions`: {known}"


def _kinds() -> list[Attention[Any]]:
    return [method.make(method.config()).with_name(name) for name, method in registry.methods("attention").items()]
