"""What components and task drew for a step, shown to the layers of that step's forward pass.

A layer that mixes the features of a batch needs the partners that were drawn with the labels. They are shown in the
forward pass of a client's training step and nowhere else: in evaluation, and where an attacker runs the model, such a
layer finds nothing and lets features pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

from torch import Tensor

from fedsim.core.types import Draws


class Showing:
    """A context whose forward passes find these draws."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def __enter__(self) -> None:
        self._token = _SHOWN.set(self._draws)

    def __exit__(self, *_failure: object) -> None:
        _SHOWN.reset(self._token)


def shown() -> Draws:
    """Return the draws of the present step by name; none outside of a client's step."""
    return _SHOWN.get()


_NOTHING: Mapping[str, Tensor] = MappingProxyType({})
_SHOWN: ContextVar[Draws] = ContextVar("shown", default=_NOTHING)
