"""keep-all: keeps all visual tokens, and counts them.

Idea: Baseline of all token reducers.
Equation: V' = V
Assumes: a model that reads images and text.
Leaks: as much as the model without it. All images have the same number of tokens, so counts and times reveal nothing.
Fails: it saves no work.
Source: none.
"""

from __future__ import annotations

from typing import final

import torch

from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import VisualReducer, VisualShape
from fedsim.core.registry import component
from fedsim.core.types import Config


@final
@component("keep-all", summary="keeps every visual token", tier="baseline")
class KeepAll(VisualTokenReducer[Config]):
    """Drops no token."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module that changes nothing."""
        return VisualReducer()
