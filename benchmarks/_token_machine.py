"""A finite-state machine as a language: states written as two digits, and a small transformer that learns it.

Paper: Tamkin, Taufeeque, Goodman 2023, arXiv 2310.17230, section 4 (TokFSM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOUNDARY = 10
VOCABULARY = 11


@dataclass(frozen=True)
class Machine:
    """States 0 to N - 1, each with as many distinct successors, all equally likely.

    Attributes:
        successors: shape (N, edges).
    """

    successors: Tensor

    @property
    def states(self) -> int:
        """How many there are."""
        return len(self.successors)

    @property
    def allowed(self) -> Tensor:
        """Which transitions exist, boolean, shape (N, N)."""
        return torch.zeros(self.states, self.states, dtype=torch.bool).scatter(1, self.successors, True)

    def walks(self, count: int, transitions: int, generator: torch.Generator) -> Tensor:
        """Return states visited from uniform starts, shape (count, transitions + 1)."""
        state = torch.randint(self.states, (count,), generator=generator)
        visited = [state]
        for _ in range(transitions):
            edge = torch.randint(self.successors.shape[1], (count,), generator=generator)
            state = self.successors[state, edge]
            visited.append(state)
        return torch.stack(visited, 1)


def machine(states: int, edges: int, generator: torch.Generator) -> Machine:
    """Draw a machine of at most 100 states; a state may follow itself."""
    return Machine(torch.stack([torch.randperm(states, generator=generator)[:edges] for _ in range(states)]))


def written(walks: Tensor) -> Tensor:
    """Return walks (B, S) as tokens (B, 1 + 2 S): a boundary, then two decimal digits a state."""
    digits = torch.stack((walks // 10, walks % 10), -1).flatten(1)
    return F.pad(digits, (1, 0), value=BOUNDARY)


def read_back(tokens: Tensor) -> Tensor:
    """Return the states (B, S) behind tokens (B, 1 + 2 S); a pair with a boundary in it becomes at least 100."""
    pairs = tokens[:, 1:].unflatten(1, (-1, 2))
    states = 10 * pairs[..., 0] + pairs[..., 1]
    return torch.where((pairs == BOUNDARY).any(-1), 100, states)


class Size(NamedTuple):
    """Of a transformer."""

    layers: int
    width: int
    heads: int
    positions: int


class Transformer(nn.Module):
    """Tokens (B, T) to scores of the next token (B, T, vocabulary): causal, pre-norm, learned positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, size.width)
        self.positions = nn.Embedding(size.positions, size.width)
        self.blocks = nn.ModuleList(_Block(size.width, size.heads) for _ in range(size.layers))
        self.head = nn.Sequential(nn.LayerNorm(size.width), nn.Linear(size.width, VOCABULARY))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)

    @torch.no_grad()
    def continued(self, tokens: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return tokens with so many more, drawn from the model's distribution."""
        for _ in range(count):
            odds = self(tokens)[:, -1].softmax(-1)
            tokens = torch.cat((tokens, odds.multinomial(1, generator=generator)), 1)
        return tokens


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.count = heads
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.heads = nn.Identity()  # heads side by side, in front of the output projection
        self.output = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        parts = self.queries_keys_values(self.norm(hidden)).unflatten(-1, (3, self.count, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        hidden = hidden + self.output(self.heads(mixed.transpose(1, 2).flatten(2)))
        return hidden + self.mlp(hidden)
