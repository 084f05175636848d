"""cls-topk: keeps the visual tokens to which the vision encoder's class token attends most.

Idea: The class token gathers what an image shows, so what it looks at matters, whatever is asked.
Equation: V' = the k tokens with the highest mean over heads of softmax(q_cls . k_j / sqrt(f)), in their order
Assumes: an encoder with a class token; the layer is the one whose output is projected. Positions stay.
Leaks: which places are kept follows from the image alone, so they show where something is. Their number
    does not vary. Dropped patches still shape the kept ones inside the encoder.
Fails: where the question asks for what the class token overlooks.
Source: Zhang et al. 2024, arXiv 2412.01818, section 3, in its simplest form.
"""

from __future__ import annotations

from typing import final

import torch

from fedsim.components.token_reducer._choosing import KeptConfig, attention_from, highest, refuses_count
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.registry import component
from fedsim.core.visual import LayerView, Stream, VisualReducer, VisualShape


@final
@component(
    "cls-topk",
    summary="keeps the visual tokens that the class token attends to",
    paper="2412.01818",
    fidelity="variant",
    deviates="a number of tokens in place of a share",
    aliases=("fastervlm",),
)
class ClsTopK(VisualTokenReducer[KeptConfig]):
    """Keeps what the class token looks at."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module that acts behind the layer whose output is projected."""
        return _ClsTopK(self.config.kept, visual.feature_layer)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse to keep more tokens than there are."""
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
