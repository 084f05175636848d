"""What an attack has to know of a kind of attention: which of its layers read the same input.

Everything else about a text model is measured by running it: whether tokens see later ones, and whether they know their
places. So a kind of model that names its layers otherwise needs one file with one `Attention`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.types.configured import ConfigT, Configured

_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")


class Attention(Configured[ConfigT]):
    """A kind of attention, in blocks that a list of the model holds. Authors give `readers`.

    Attributes:
        readers: names of the layers of one attention that read the same input; the first one stands for all.
    """

    readers: ClassVar[tuple[str, ...]]

    def rows(self, layer: nn.Module, gradient: Tensor) -> Tensor:
        """Return the gradient of a layer's weight as (outputs, inputs), which is how most layers have it."""
        return gradient

    @classmethod
    def is_at(cls, place: nn.Module) -> bool:
        """Say whether a module holds all the readers."""
        return all(isinstance(getattr(place, reader, None), nn.Module) for reader in cls.readers)


def attentions(model: nn.Module) -> list[str]:
    """Return the name of the first reader in each block's attention, first block first."""
    named = ((name, kind_at(module)) for name, module in model.named_modules())
    readers = [f"{place}.{kind.readers[0]}" for place, kind in named if kind is not None]
    return [name for name in readers if _IN_A_BLOCK.search(name)]


def kind_at(place: nn.Module) -> Attention[Any] | None:
    """Return the kind of the attention that a module is, or None."""
    return next((kind for kind in _kinds() if kind.is_at(place)), None)


def fewer_than(count: int, model: nn.Module) -> str | None:
    """Return that a model has fewer attentions than `count`, and which kinds are known, as a clause; or None."""
    if len(attentions(model)) >= count:
        return None
    known = "; ".join(f"{kind.name} ({', '.join(kind.readers)})" for kind in _kinds())
    return f"the model does not have {count} attentions of a kind of `fedsim list attentions`: {known}"


def _kinds() -> list[Attention[Any]]:
    return [method.make(method.config()).named(name) for name, method in registry.methods("attention").items()]
