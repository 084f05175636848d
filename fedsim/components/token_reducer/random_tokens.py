"""random-tokens: keeps visual tokens at positions drawn once, the same for all images.

Idea: Baseline: a selection is worth its improvement over random selection.
Equation: V' = V_S, |S| = k, S uniform among the subsets of all positions
Assumes: a model that reads images and text. Tokens are dropped between projector and language model.
Leaks: number and positions of the tokens are independent of image and question. Dropped patches still influence the
    kept ones inside the encoder, and thereby the update.
Fails: if a single cell determines the answer.
Source: none; the usual control.
"""

from __future__ import annotations

from typing import final

import torch

from fedsim.components.token_reducer._choosing import KeptConfig, refuses_count
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import Stream, VisualReducer, VisualShape
from fedsim.core.registry import component


@final
@component("random-tokens", summary="keeps visual tokens at random places, the same of every image", tier="baseline")
class RandomTokens(VisualTokenReducer[KeptConfig]):
    """Keeps a random subset."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module with newly drawn positions."""
        return _Random(torch.randperm(visual.patches, generator=generator)[: self.config.kept].sort().values)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse to keep more tokens than an image has."""
        return refuses_count(self.config.kept, visual)


class _Random(VisualReducer):
    def __init__(self, places: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("places", places)

    def after_projection(self, stream: Stream) -> Stream:
        """Keep the tokens at the drawn positions."""
        assert isinstance(self.places, torch.Tensor)
        return stream.keep(self.places.expand(len(stream.patches), -1))
