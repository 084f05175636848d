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
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import Stream, VisualReducer, VisualShape
from fedsim.core.registry import component


@final
@component("random-tokens", summary="keeps visual tokens at random places, the same of every image", tier="baseline")
class RandomTokens(VisualTokenReducer[KeptConfig]):
    """Keeps a random subset."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module with newly drawn positions."""
        places = torch.randperm(visual.patches, generator=generator)[: self.config.kept].sort().values
        return _Random(places, visual.patches)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse to keep more tokens than an image has."""
        return refuses_count(self.config.kept, visual)


class _Random(VisualReducer):
    def __init__(self, places: torch.Tensor, patches: int) -> None:
        super().__init__()
        self._patches = patches
        self.register_buffer("places", places)

    def after_projection(self, stream: Stream) -> Stream:
        """Keep the tokens at the drawn positions.

        Raises:
            NotApplicable: tokens were dropped before.
        """
        assert isinstance(self.places, torch.Tensor)
        if stream.patches.shape[1] != self._patches:
            raise NotApplicable(
                f"component 'random-tokens' draws positions among all {self._patches} visual tokens of an image, and "
                f"only {stream.patches.shape[1]} are left. Decoder 'damro' shows its second branch few tokens, and "
                "other token reducers drop tokens before: use neither with 'random-tokens'."
            )
        return stream.keep(self.places.expand(len(stream.patches), -1))
