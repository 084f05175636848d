"""keep-all: keeps every visual token, and counts them.

Idea: What reducers are compared with.
Equation: V' = V
Assumes: a model that reads images and text.
Leaks: what the model without it leaks. Every image has the same number of tokens, so counts and times tell nothing.
Fails: as a saving.
Source: none.
"""

from __future__ import annotations

from typing import final

import torch

from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.registry import component
from fedsim.core.types import Config
from fedsim.core.visual import VisualReducer, VisualShape


@final
@component("keep-all", summary="keeps every visual token")
class KeepAll(VisualTokenReducer[Config]):
    """Leaves nothing out."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module that changes nothing."""
        return VisualReducer()
