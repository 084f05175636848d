"""Draws of components and task in a step, made available to the layers of that step's forward pass.

A layer that mixes the features of a batch needs the mixing partners drawn with the labels. They are available only in
the forward pass of a client's training step: in evaluation, and when an attacker runs the model, such a layer finds no
draws and passes features unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

from torch import Tensor

from fedsim.core.types import Draws


class Showing:
    """Context whose forward passes can read these draws."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def __enter__(self) -> None:
        self._token = _SHOWN.set(self._draws)

    def __exit__(self, *_failure: object) -> None:
        _SHOWN.reset(self._token)


def get_current_draws() -> Draws:
    """Return the draws of the current step by name; empty outside of a client's step."""
    return _SHOWN.get()


_NOTHING: Mapping[str, Tensor] = MappingProxyType({})
_SHOWN: ContextVar[Draws] = ContextVar("shown", default=_NOTHING)
