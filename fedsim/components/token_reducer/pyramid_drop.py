"""pyramid-drop: keeps fewer visual tokens in each stage of the language model, by the prompt's attention.

Idea: Early layers need all visual tokens, late layers few: drop them in stages.
Equation: after stage s the floor(r_s N) tokens with the highest mean over heads of softmax(q_last . k_j / sqrt(f)) are
    kept; q and k are those of the layer that follows, N the tokens of the image
Assumes: a model that reads images and text; it needs no training, but clients may train with it.
Leaks: the number of kept tokens depends on the settings alone. The kept positions depend on image and question. Late
    layers have gradients of the kept tokens only; the encoder's gradient depends on all tokens.
Fails: if the first drop is before the layer where the question has reached the last token.
Source: Xing et al. 2024, arXiv 2410.17247, section 3.
"""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from pydantic import Field

from fedsim.components.token_reducer._choosing import attention_from, highest
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import LayerView, Stream, VisualReducer, VisualShape
from fedsim.core.registry import component
from fedsim.core.types import Config


class PyramidDropConfig(Config):
    """Settings of the stages."""

    layers: tuple[int, ...] = Field(
        default=(2, 4), min_length=1, description="layers of the language model before which tokens are dropped, from 0"
    )
    shares: tuple[float, ...] = Field(
        default=(0.5, 0.25), min_length=1, description="share of the image's tokens that is kept from each of them on"
    )
    recount: bool = Field(default=True, description="count positions anew behind a drop, as the paper; else they stay")


@final
@component(
    "pyramid-drop",
    summary="keeps ever fewer visual tokens, stage by stage",
    tier="research",
    paper="2410.17247",
    fidelity="reproduction",
    paper_steps=(
        ("rank by the last token's attention in the next layer", "_Pyramid.before_layer"),
        ("shares of the image's tokens by stage", "PyramidDrop.reducer"),
        ("pruned training", "_Pyramid"),
    ),
)
class PyramidDrop(VisualTokenReducer[PyramidDropConfig]):
    """Drops tokens before some layers of the language model."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module that acts before the chosen layers."""
        counts = [int(visual.patches * share) for share in self.config.shares]
        return _Pyramid(dict(zip(self.config.layers, counts, strict=True)), self.config.recount)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse invalid layers, increasing shares, and stages that keep no token."""
        layers, shares = self.config.layers, self.config.shares
        if len(layers) != len(shares):
            return f"layers has {len(layers)} entries and shares {len(shares)}: expected a share for each layer"
        if not _ascend(layers) or layers[0] < 1 or layers[-1] >= visual.layers:
            return f"layers is {layers}, expected ascending numbers from 1 to {visual.layers - 1}"
        if any(first < second for first, second in pairwise((1.0, *shares))):
            return f"shares is {shares}, expected numbers of at most 1, none larger than its predecessor"
        if int(visual.patches * shares[-1]) < 1:
            return f"a share of {shares[-1]:g} leaves none of {visual.patches} visual tokens, expected at least 1"
        return None


class _Pyramid(VisualReducer):
    def __init__(self, counts: dict[int, int], recount: bool) -> None:
        super().__init__()
        self._counts, self._recount = counts, recount

    def before_layer(self, stream: Stream, layer: LayerView) -> Stream:
        """Keep the tokens with the most attention from the prompt's last token, which precedes the answer."""
        kept = self._counts.get(layer.number)
        if kept is None or kept >= stream.patches.shape[1]:
            return stream
        left = stream.keep(highest(attention_from(stream.last, stream, layer), kept))
        return left.reindex_positions() if self._recount else left


def _ascend(numbers: tuple[int, ...]) -> bool:
    return all(first < second for first, second in pairwise(numbers))
