"""Lexical units (confidently predicted spans of a text) and pad tokens that stand for tokens not yet generated.

A block of pads stands for the tokens that follow in a unit. A pad attends to the text before the unit and to earlier
pads of its block, and has the position of the token that it stands for; no other token attends to it. So many blocks
share one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.nets.kv_cache import KVCache, LayerStack
from fedsim.core.nets.losses import IGNORED


class PadEmbedding(nn.Embedding):
    """An embedding with an extra row, `pad`, after its last token; the output layer has no score for it."""

    pad: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """Return the embeddings (..., width) of token ids; the id `num_embeddings` is the pad."""
        is_pad = input == self.num_embeddings
        rows = F.embedding(input.masked_fill(is_pad, 0), self.weight, self.padding_idx)
        return torch.where(is_pad[..., None], self.pad, rows)


def embedding_of(model: nn.Module) -> nn.Embedding | None:
    """Return a model's first embedding, the token embedding, or None."""
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


def add_pad(embedding: nn.Embedding) -> None:
    """Add a pad row to an embedding in place, initialised to the mean of its rows."""
    # In place, because an output layer that shares the weight refers to this object.
    embedding.__class__ = PadEmbedding
    embedding.register_parameter("pad", nn.Parameter(embedding.weight.detach().mean(0)))


def pad_of(model: nn.Module) -> int | None:
    """Return the token id of a model's pad, or None if the model has none."""
    embedding = embedding_of(model)
    return embedding.num_embeddings if isinstance(embedding, PadEmbedding) else None


def units(probabilities: Sequence[float], sure: float, largest: int) -> list[int]:
    """Return the lengths of the lexical units of a text, from left to right.

    Args:
        probabilities: probability of each token given the tokens before it.
        sure: probability at or above which a token joins the preceding token's unit.
        largest: maximum number of tokens per unit.
    """
    lengths: list[int] = []
    for probability in probabilities:
        if lengths and lengths[-1] < largest and probability >= sure:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


class PadBlock(NamedTuple):
    """Input position with a unit's first token as its label, and the number of pads for the tokens after it."""

    place: int
    pads: int


def draw_blocks(
    lengths: Sequence[int], count: int, largest: int, unsure: float, generator: torch.Generator
) -> list[PadBlock]:
    """Sample at most `count` blocks: units of more than one token, and sometimes any unit.

    Args:
        lengths: unit lengths of a text.
        count: maximum number of blocks.
        largest: maximum number of tokens per unit.
        unsure: probability that a block starts at a random unit with as many pads as fit, which trains low confidence.
        generator: random source.
    """
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    longer = [PadBlock(start, length - 1) for start, length in zip(starts, lengths, strict=True) if length > 1]
    order = iter(torch.randperm(len(longer), generator=generator).tolist())
    chances = torch.rand(count, 2, generator=generator, dtype=torch.double).tolist()
    blocks: list[PadBlock] = []
    for chance, span in chances if lengths else ():
        if chance < unsure:
            start = starts[int(span * len(starts))]
            blocks.append(PadBlock(start, min(largest - 1, sum(lengths) - 1 - start)))
        elif (number := next(order, None)) is not None:
            blocks.append(longer[number])
    return [block for block in blocks if block.pads]


class Packed(NamedTuple):
    """Texts followed by pad blocks: tokens and positions (B, T + P), attention mask, target tokens of the P pads."""

    tokens: Tensor
    positions: Tensor
    sees: Tensor
    targets: Tensor


def pack(inputs: Tensor, labels: Tensor, blocks: Sequence[Sequence[PadBlock]], pad: int, room: int) -> Packed:
    """Append pad blocks to texts (B, T); unused pads up to `room` have no target.

    Args:
        inputs: token ids.
        labels: next token of each input token.
        blocks: pad blocks of each text.
        pad: token id of the pad.
        room: number of pads per text.
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
    """Return the scores (B, T + P - first, V) of tokens and pads from position `first` on."""
    hidden = stack.embed(packed.tokens)
    place = stack.place(hidden, packed.positions)
    mask = torch.zeros(packed.sees.shape, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(~packed.sees, -torch.inf)[:, None]
    for number in range(stack.depth):
        hidden = stack.layer(number, hidden, place, mask, _Nothing())
    return stack.score(hidden[:, first:])


class _Nothing(KVCache):
    """Key-value store that keeps nothing: each pass uses its own keys and values."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return keys, values
