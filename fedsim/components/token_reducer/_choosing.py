"""How many visual tokens a reducer keeps, and which get the most attention or have the highest scores."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.types import Config
from fedsim.core.visual import LayerView, Stream, VisualShape


class KeptConfig(Config):
    """Settings of a reducer that keeps a fixed number of visual tokens."""

    kept: int = Field(default=16, ge=1, description="visual tokens that are kept of each image")


def refuses_count(kept: int, visual: VisualShape) -> str | None:
    """Say whether more tokens are to be kept than there are."""
    if kept <= visual.patches:
        return None
    return f"kept is {kept}, and an image has {visual.patches} visual tokens: expected at most as many"


def refuses_layer(layer: int, visual: VisualShape) -> str | None:
    """Say whether a drop behind a layer of the language model would come too late for any other layer."""
    if layer < visual.layers - 1:
        return None
    return (
        f"layer is {layer}, and the language model has layers 0 to {visual.layers - 1}: expected at most "
        f"{visual.layers - 2}, so that a layer follows"
    )


def highest(scores: Tensor, kept: int) -> Tensor:
    """Return the places (B, kept) of the highest scores (B, n), ascending; of equal ones the first."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :kept].sort(1).values


@torch.no_grad()
def attention_from(place: int, stream: Stream, layer: LayerView) -> Tensor:
    """Return what the token at a place attends to of each visual token in a layer, mean over heads, (B, n).

    No gradient goes through.
    """
    return layer.attention(stream, slice(place, place + 1)).mean(1)[:, 0, stream.visual]


def or_best(kept: Tensor, scores: Tensor, stream: Stream) -> Tensor:
    """Return a mask of visual tokens (B, n), with the best-scored one where an example would keep none."""
    is_token = stream.patches >= 0
    is_empty = ~(kept & is_token).any(1, keepdim=True)
    if not bool(is_empty.any()):
        return kept
    best = torch.nn.functional.one_hot(scores.masked_fill(~is_token, -torch.inf).argmax(1), kept.shape[1]).bool()
    return kept | (best & is_empty)
