"""must-drop: merges similar neighbours in the encoder, then drops visual tokens relevant to neither image nor question.

Idea: Judge a token over all stages. Keep tokens with high class-token attention for any question; of the rest, drop
    tokens that no question token attends to; then remove dropped tokens from all key-value caches.
Equation: drop j if sum_t A_tj < theta_g sum_tk A_tk and max_t A_tj < theta_i, unless j is protected; A the mean over
    heads of the attention of question tokens t to visual tokens
Assumes: a model with a class token that reads images and text. No training.
Leaks: the number of remaining tokens depends on image and question, and affects time and memory.
Fails: thresholds are shares of attention, so they must fit the number of tokens; examples of a batch differ in cost.
Source: Liu et al. 2024, arXiv 2411.10803, section 3; thresholds scaled to fewer tokens, and each image merges all of
    its similar windows, where the paper merges equally many in each image of a batch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.components.token_reducer._choosing import attention_from, or_best
from fedsim.core.hooks import VisualTokenReducer
from fedsim.core.nets.visual import LayerView, PromptCache, Stream, VisualReducer, VisualShape
from fedsim.core.registry import component
from fedsim.core.types import Config

_PROTECTED = "must-drop.protected"  # mask over the patches of the image, (B, N)


class MustDropConfig(Config):
    """Settings of the three stages."""

    window: int = Field(default=2, ge=2, description="side of the windows of patches that may be merged into a token")
    likeness: float = Field(default=0.8, description="mean cosine of a window's tokens from which on it may be merged")
    protected_share: float = Field(
        default=0.08,
        ge=0,
        le=1,
        description="share of the tokens, by attention of the class token, that is never dropped",
    )
    layers: tuple[int, ...] = Field(
        default=(1, 2, 3, 4), min_length=1, description="layers of the language model behind which tokens are dropped"
    )
    overall: float = Field(
        default=0.01, ge=0, description="theta_g: share of the question's attention; 0: drop nothing"
    )
    single: float = Field(default=0.01, ge=0, description="theta_i: attention of a single question token")
    recount: bool = Field(default=True, description="count positions anew behind a drop, as the paper; else they stay")


@final
@component(
    "must-drop",
    summary="merges similar visual tokens, and drops tokens without attention",
    tier="research",
    paper="2411.10803",
    fidelity="variant",
    deviates="thresholds fit fewer tokens; images merge alone; merged tokens keep their place",
    paper_steps=(
        ("merging of alike windows in the encoder", "merge_windows"),
        ("dropping by both attention criteria", "find_unneeded"),
        ("layers hold only survivors while they write", "_MustDrop.after_prompt"),
    ),
)
class MustDrop(VisualTokenReducer[MustDropConfig]):
    """Acts in the encoder, in the language model, and on its key-value caches."""

    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return a module of all three stages."""
        return _MustDrop(self.config, visual)

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Refuse windows that do not tile the image, and invalid layers or a last layer without successor."""
        side, layers = self.config.window, self.config.layers
        if any(length % side for length in visual.grid):
            return f"windows of {side} x {side} do not tile {visual.grid[0]} x {visual.grid[1]} patches"
        if any(first >= second for first, second in pairwise((0, *layers, visual.layers - 1))):
            return (
                f"layers is {layers}, expected ascending numbers from 1 to {visual.layers - 2}: text must have looked "
                "at the image, and a layer must follow"
            )
        return None


class _MustDrop(VisualReducer):
    asks_all_of_encoder: ClassVar[bool] = True

    def __init__(self, config: MustDropConfig, visual: VisualShape) -> None:
        super().__init__()
        self._config, self._visual = config, visual

    def before_encoder_layer(self, stream: Stream, layer: LayerView) -> Stream:
        """Protect the tokens with the most class-token attention in the last encoder layer."""
        if layer.number < self._visual.encoder_layers - 1:
            return stream
        return stream.with_notes(**{_PROTECTED: self._most_attended(attention_from(0, stream, layer), stream)})

    def after_encoder_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Merge windows after the first layer."""
        if layer.number > 0:
            return after
        return merge_windows(after, self._visual.grid, self._config.window, self._config.likeness)

    def _most_attended(self, scores: Tensor, stream: Stream) -> Tensor:
        """Return the protected share of each image's tokens, as a mask over patches (B, N)."""
        counts = torch.as_tensor(stream.counts, device=scores.device)
        wanted = (self._config.protected_share * counts).ceil().long()
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
        chosen = (rank < wanted[:, None]) & (stream.patches >= 0)
        mask = torch.zeros(len(scores), self._visual.patches, dtype=torch.long, device=scores.device)
        return mask.scatter_reduce(1, stream.patches.clamp_min(0), chosen.long(), "amax").bool()

    def after_projection(self, stream: Stream) -> Stream:
        """Renumber positions, since merging reduced the number of tokens."""
        return self._reindex_stream(stream)

    def _reindex_stream(self, stream: Stream) -> Stream:
        return stream.reindex_positions() if self._config.recount else stream

    def after_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Drop tokens that get little attention from the question as a whole and from each of its tokens."""
        if layer.number not in self._config.layers:
            return after
        with torch.no_grad():
            rows = layer.attention(before, before.question_slice).mean(1)[:, :, before.visual]
        kept = ~find_unneeded(rows, self._config.overall, self._config.single) | _find_protected(before)
        return self._reindex_stream(after.keep_where(or_best(kept, rows.sum(1), before)))

    def after_prompt(self, held: PromptCache) -> None:
        """Reduce the caches of the layers from the first drop on to the final tokens, and renumber their positions."""
        final_ones = held.patches[-1]
        for number in range(len(held.patches)):
            patches = held.patches[number]
            if number >= self._config.layers[0] and patches is not final_ones:
                held.keep(number, (patches[:, :, None] == final_ones[:, None]).any(-1) & (patches >= 0))
            if self._config.recount:
                held.reindex(number)


def merge_windows(stream: Stream, grid: tuple[int, int], side: int, likeness: float) -> Stream:
    """Merge each similar window of patches in an encoder stream into one token, their mean.

    A merged token has the position and the number of the first patch of its window.

    Args:
        stream: class token and all patches.
        grid: numbers of patch rows and columns.
        side: side of a window.
        likeness: minimum mean cosine between two tokens of a window.
    """
    numbers = torch.arange(grid[0] * grid[1], device=stream.hidden_states.device).view(grid)
    windows = numbers.unfold(0, side, side).unfold(1, side, side).reshape(-1, side**2)  # (W, s*s)
    windowed = stream.hidden_states[:, stream.visual][:, windows]  # (B, W, s*s, width)
    count = side**2
    alike = (F.normalize(windowed, dim=-1).sum(2).square().sum(-1) - count) / (count * (count - 1)) >= likeness
    if not bool(alike.any()):
        return stream
    firsts = stream.front + windows[:, 0]
    hidden = stream.hidden_states.index_copy(
        1, firsts, torch.where(alike[..., None], windowed.mean(2), windowed[:, :, 0])
    )
    kept = torch.ones_like(stream.patches, dtype=torch.bool)
    kept[:, windows[:, 1:]] = ~alike[..., None].expand(-1, -1, count - 1)
    return stream.with_hidden_states(hidden).keep_where(kept)


def find_unneeded(rows: Tensor, overall: float, single: float) -> Tensor:
    """Return the mask of visual tokens that both criteria would drop, (B, n).

    Args:
        rows: attention of each question token, (B, T, n).
        overall: minimum share of the total attention.
        single: minimum attention of a single question token.
    """
    received = rows.sum(1)
    return (received < overall * received.sum(1, keepdim=True)) & (rows.amax(1) < single)


def _find_protected(stream: Stream) -> Tensor:
    return stream.notes[_PROTECTED].gather(1, stream.patches.clamp_min(0)) & (stream.patches >= 0)
