"""Edits of a sentence: reorderings by one move, and changes of its tokens.

The moves follow LAMP (Balunovic et al. 2022, arXiv 2202.08827): swap two words, move a word, move a span, move a
prefix to the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def orders(length: int, count: int, generator: torch.Generator) -> list[list[int]]:
    """Return `count` permutations of a sentence's positions, each one move away from the identity.

    The moves alternate: swap two words, move a word, move a span, move a prefix to the end.
    """
    return [_MOVES[number % len(_MOVES)](list(range(length)), generator) for number in range(count)]


def _swap(order: list[int], generator: torch.Generator) -> list[int]:
    first, second = _two(len(order), generator)
    order[first], order[second] = order[second], order[first]
    return order


def _move_word(order: list[int], generator: torch.Generator) -> list[int]:
    source, target = _two(len(order), generator)
    order.insert(target, order.pop(source))
    return order


def _move_span(order: list[int], generator: torch.Generator) -> list[int]:
    first, second = sorted(_two(len(order), generator))
    span, remainder = order[first : second + 1], order[:first] + order[second + 1 :]
    target = int(torch.randint(len(remainder) + 1, (1,), generator=generator))
    return remainder[:target] + span + remainder[target:]


def _turn(order: list[int], generator: torch.Generator) -> list[int]:
    cut = int(torch.randint(len(order), (1,), generator=generator))
    return order[cut:] + order[:cut]


_MOVES = (_swap, _move_word, _move_span, _turn)


def _two(length: int, generator: torch.Generator) -> tuple[int, int]:
    first, second = torch.randint(length, (2,), generator=generator).tolist()
    return first, second


def change(
    tokens: Tensor, lengths: Sequence[int], choices: Tensor, endings: Tensor, generator: torch.Generator
) -> Tensor:
    """Return sentences (B, places) after one edit: a move, a replacement, both, or a new token after the end."""
    row, kind = (int(torch.randint(n, (1,), generator=generator)) for n in (len(lengths), len(_MOVES) + 3))
    length, changed = lengths[row], tokens.clone()
    if kind < len(_MOVES):
        changed[row, :length] = tokens[row, _MOVES[kind](list(range(length)), generator)]
        return changed
    if kind == len(_MOVES) and tokens.shape[1] > length:
        changed[row, length] = _one_of(endings, generator)
        return changed
    source, target = _two(length, generator)
    if kind > len(_MOVES) + 1:
        order = list(range(length))
        order.insert(target, order.pop(source))
        changed[row, :length] = tokens[row, order]
    changed[row, target] = _one_of(choices, generator)
    return changed


def _one_of(choices: Tensor, generator: torch.Generator) -> Tensor:
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]
