"""Code of lexical units: which spans of a text a model is sure of, and pads that stand for tokens not written yet.

A block of pads stands for the followers of a unit. It sees the text in front of the unit and its own earlier pads, and
has the positions of what it stands for; nothing sees it. So many blocks share one pass over a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.losses import IGNORED
from fedsim.core.past import KeyValues, LayerStack


class PadEmbedding(nn.Embedding):
    """An embedding with one more row, `pad`, behind its last token; the output layer has no score for it."""

    pad: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """Return rows (..., width) of tokens, numbers from 0 to the number of them, which is the pad."""
        is_pad = input == self.num_embeddings
        rows = F.embedding(input.masked_fill(is_pad, 0), self.weight, self.padding_idx)
        return torch.where(is_pad[..., None], self.pad, rows)


def embedding_of(model: nn.Module) -> nn.Embedding | None:
    """Return a model's first embedding, that of its tokens."""
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


def add_pad(embedding: nn.Embedding) -> None:
    """Give an embedding a pad, which begins as the mean of its rows."""
    # In place: an output layer that shares the weight holds this very object.
    embedding.__class__ = PadEmbedding
    embedding.register_parameter("pad", nn.Parameter(embedding.weight.detach().mean(0)))


def pad_of(model: nn.Module) -> int | None:
    """Return the number of a model's pad, or None where it has none."""
    embedding = embedding_of(model)
    return embedding.num_embeddings if isinstance(embedding, PadEmbedding) else None


def units(probabilities: Sequence[float], sure: float, most: int) -> list[int]:
    """Return the lengths of the units of a text, from left to right.

    Args:
        probabilities: of each token, given those before it.
        sure: probability from which a token follows in the unit of the one before it.
        most: tokens of a unit.
    """
    lengths: list[int] = []
    for probability in probabilities:
        if lengths and lengths[-1] < most and probability >= sure:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


class PadBlock(NamedTuple):
    """Pads behind the input at a place, for the tokens that follow its label."""

    place: int
    pads: int


def draw_blocks(
    lengths: Sequence[int], count: int, most: int, unsure: float, generator: torch.Generator
) -> list[PadBlock]:
    """Return at most `count` blocks: of units of more than one token, and some of any.

    Args:
        lengths: of the units of one text.
        count: blocks.
        most: tokens of a unit.
        unsure: chance that a block is that of any unit, with as many pads as there can be: it teaches to be unsure.
        generator: source of the choice.
    """
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    longer = [PadBlock(start, length - 1) for start, length in zip(starts, lengths, strict=True) if length > 1]
    order = iter(torch.randperm(len(longer), generator=generator).tolist())
    chances = torch.rand(count, 2, generator=generator, dtype=torch.double).tolist()
    blocks: list[PadBlock] = []
    for chance, where in chances if lengths else ():
        if chance < unsure:
            start = starts[int(where * len(starts))]
            blocks.append(PadBlock(start, min(most - 1, sum(lengths) - 1 - start)))
        elif (number := next(order, None)) is not None:
            blocks.append(longer[number])
    return [block for block in blocks if block.pads]


class Packed(NamedTuple):
    """Texts with blocks behind them: tokens, positions (B, T + P), what each sees, and the tokens of the P pads."""

    tokens: Tensor
    positions: Tensor
    sees: Tensor
    targets: Tensor


def pack(inputs: Tensor, labels: Tensor, blocks: Sequence[Sequence[PadBlock]], pad: int, room: int) -> Packed:
    """Return texts (B, T) with their blocks behind them, filled up to `room` pads that nobody asks about.

    Args:
        inputs: tokens.
        labels: the token behind each.
        blocks: of each text.
        pad: number of the pad.
        room: pads of a text.
    """
    count, length = inputs.shape
    positions = torch.arange(length + room).expand(count, -1).clone()
    sees = torch.eye(length + room, dtype=torch.bool).expand(count, -1, -1).clone()
    sees[:, :length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    targets = torch.full((count, room), IGNORED)
    for row, row_blocks in enumerate(blocks):
        first = length
        for place, pads in row_blocks:
            block = slice(first, first + pads)
            positions[row, block] = torch.arange(place + 1, place + 1 + pads)
            sees[row, block, : place + 1] = True
            sees[row, block, block] = torch.ones(pads, pads, dtype=torch.bool).tril()
            targets[row, first - length : first - length + pads] = labels[row, place + 1 : place + 1 + pads]
            first += pads
    tokens = torch.cat((inputs, inputs.new_full((count, room), pad)), 1)
    return Packed(tokens, positions.to(inputs.device), sees.to(inputs.device), targets.to(inputs.device))


def read(stack: LayerStack, packed: Packed, first: int = 0) -> Tensor:
    """Return the scores (B, T + P - first, V) behind each token and pad, from the first one that is asked for."""
    hidden = stack.embed(packed.tokens)
    place = stack.place(hidden, packed.positions)
    mask = torch.zeros(packed.sees.shape, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(~packed.sees, -torch.inf)[:, None]
    for number in range(stack.depth):
        hidden = stack.layer(number, hidden, place, mask, _Nothing())
    return stack.score(hidden[:, first:])


class _Nothing(KeyValues):
    """Keeps no keys and values: a pass sees its own."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return keys, values
