"""Number of visual tokens that a reducer keeps, and their selection by attention or score."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.nets.visual import LayerView, Stream, VisualShape
from fedsim.core.types import Config


class KeptConfig(Config):
    """Settings of a reducer that keeps a fixed number of visual tokens."""

    kept: int = Field(default=16, ge=1, description="visual tokens that are kept of each image")


def refuses_count(kept: int, visual: VisualShape) -> str | None:
    """Return an error text if more tokens are to be kept than an image has."""
    if kept <= visual.patches:
        return None
    return f"kept is {kept}, and an image has {visual.patches} visual tokens: expected at most as many"


def refuses_layer(layer: int, visual: VisualShape) -> str | None:
    """Return an error text if no layer of the language model follows `layer`."""
    if layer < visual.layers - 1:
        return None
    return (
        f"layer is {layer}, and the language model has layers 0 to {visual.layers - 1}: expected at most "
        f"{visual.layers - 2}, so that a layer follows"
    )


def highest(scores: Tensor, kept: int) -> Tensor:
    """Return the positions (B, kept) of the highest scores (B, n), ascending; ties go to the lower position."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :kept].sort(1).values


@torch.no_grad()
def attention_from(place: int, stream: Stream, layer: LayerView) -> Tensor:
    """Return the attention of the token at `place` to each visual token in a layer, mean over heads, (B, n).

    Computed without gradient.
    """
    return layer.attention(stream, slice(place, place + 1)).mean(1)[:, 0, stream.visual]


def or_best(kept: Tensor, scores: Tensor, stream: Stream) -> Tensor:
    """Return the mask of kept visual tokens (B, n); an example that would keep none keeps its best-scored token."""
    is_token = stream.patches >= 0
    is_empty = ~(kept & is_token).any(1, keepdim=True)
    if not bool(is_empty.any()):
        return kept
    best = torch.nn.functional.one_hot(scores.masked_fill(~is_token, -torch.inf).argmax(1), kept.shape[1]).bool()
    return kept | (best & is_empty)
