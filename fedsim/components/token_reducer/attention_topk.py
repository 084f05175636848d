"""attention-topk: keeps the visual tokens to which the prompt's last token attends most at a given layer.

Idea: The answer is predicted from the last token, so the tokens it attends to are worth keeping.
Equation: V' = the k tokens with the highest mean over heads of attention_l(last, j), for all layers after l
Assumes: a model that reads images and text, and a layer after l. Position indices stay.
Leaks: the kept positions depend on image and question, so they reveal information about both. Their number is fixed.
    Layers up to l process all tokens, and their gradients depend on all patches.
Fails: at layers where the question has not yet reached the last token.
Source: Chen et al. 2024, arXiv 2403.06764, section 4, with a number in place of a share.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from fedsim.components.token_reducer._choosing import KeptConfig, attention_from, highest, refuses_count, refuses_layer
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import LayerView, Stream, VisualReducer, VisualShape
from fedsim.core.registry import component


class AttentionTopKConfig(KeptConfig):
    """Settings of the selection by attention."""

    layer: int = Field(default=2, ge=0, description="layer of the language model that ranks by its attention, from 0")


@final
@component(
    "attention-topk",
    summary="keeps the visual tokens that the prompt's last token attends to",
    tier="baseline",
    paper="2403.06764",
    fidelity="variant",
    deviates="a number of tokens in place of a share",
    paper_steps=(("ranking by the last token's attention", "_AttentionTopK.after_layer"),),
    aliases=("fastv",),
)
class AttentionTopK(VisualTokenReducer[AttentionTopKConfig]):
    """Keeps the tokens that the prompt's last token attends to most."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module that drops tokens after the configured layer."""
        return _AttentionTopK(self.config.kept, self.config.layer)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse to keep more tokens than an image has, and a layer without a following layer."""
        return refuses_count(self.config.kept, visual) or refuses_layer(self.config.layer, visual)


class _AttentionTopK(VisualReducer):
    def __init__(self, kept: int, layer: int) -> None:
        super().__init__()
        self._kept, self._layer = kept, layer

    def after_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Keep the tokens with the most attention."""
        if layer.number != self._layer:
            return after
        return after.keep(highest(attention_from(before.last, before, layer), self._kept))
