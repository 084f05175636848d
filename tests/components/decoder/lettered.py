"""A language model of six tokens, whose texts can be enumerated, and its tokenizer."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

LETTERS = "abc12"
END = 5
LONGEST = 4


class Letters:
    """Five letters are one token each; the end is the sixth."""

    vocabulary, padding, begin, end = 6, END, None, END
    ends = frozenset({end})

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index(sign) for sign in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(LETTERS[token] for token in tokens if token != END)


class Table(nn.Module):
    """Scores of the next token by the last one and its place."""

    def __init__(self) -> None:
        super().__init__()
        self.table = 0.5 * torch.randn(64, 6, 6, generator=torch.Generator().manual_seed(5)).double()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[torch.arange(tokens.shape[1]), tokens]


def probability(text: Sequence[int], begin: int) -> float:
    """How likely the table writes these tokens behind one."""
    odds, found = Table().table.softmax(-1), 1.0
    for place, (before, after) in enumerate(itertools.pairwise((begin, *text))):
        found *= float(odds[place, before, after])
    return found


def texts(longest: int = LONGEST) -> Iterator[tuple[int, ...]]:
    """All texts with an end, of at most `longest` tokens."""
    for length in range(longest):
        for own in itertools.product(range(END), repeat=length):
            yield (*own, END)
