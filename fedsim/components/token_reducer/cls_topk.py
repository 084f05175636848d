"""cls-topk: keeps the visual tokens to which the vision encoder's class token attends most.

Idea: The class token summarises the image, so the tokens it attends to matter for any question.
Equation: V' = the k tokens with the highest mean over heads of softmax(q_cls . k_j / sqrt(f)), in their order
Assumes: an encoder with a class token; the layer is the projected one. Position indices stay.
Leaks: the kept positions depend on the image alone, so they show where objects are. Their number is fixed. Dropped
    patches still influence kept patches inside the encoder.
Fails: if the question concerns a region that the class token ignores.
Source: Zhang et al. 2024, arXiv 2412.01818, section 3, in its simplest form.
"""

from __future__ import annotations

from typing import final

import torch

from fedsim.components.token_reducer._choosing import KeptConfig, attention_from, highest, refuses_count
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import LayerView, Stream, VisualReducer, VisualShape
from fedsim.core.registry import component


@final
@component(
    "cls-topk",
    summary="keeps the visual tokens that the class token attends to",
    tier="baseline",
    paper="2412.01818",
    fidelity="variant",
    deviates="a number of tokens in place of a share",
    paper_steps=(("ranking by the class token's attention", "_ClsTopK.after_encoder_layer"),),
    aliases=("fastervlm",),
)
class ClsTopK(VisualTokenReducer[KeptConfig]):
    """Keeps the tokens that the class token attends to most."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module that drops tokens after the layer whose output is projected."""
        return _ClsTopK(self.config.kept, visual.feature_layer)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse to keep more tokens than an image has."""
        return refuses_count(self.config.kept, visual)


class _ClsTopK(VisualReducer):
    def __init__(self, kept: int, layer: int) -> None:
        super().__init__()
        self._kept, self._layer = kept, layer

    def after_encoder_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Keep the tokens with the most attention."""
        if layer.number != self._layer:
            return after
        return after.keep(highest(attention_from(0, before, layer), self._kept))
