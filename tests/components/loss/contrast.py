"""What the tests of contrastive losses compare with."""

import math

import torch
from torch import Tensor


def simcse(first: Tensor, second: Tensor, temperature: float = 0.05, queue: Tensor | None = None) -> float:
    """The loss in plain Python."""
    rows = [row.tolist() for row in first]
    others = [row.tolist() for row in second]
    extra = [] if queue is None else [row.tolist() for row in queue]

    def score(a: list[float], b: list[float]) -> float:
        norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / norm / temperature

    total = 0.0
    for index, row in enumerate(rows):
        terms = [math.exp(score(row, other)) for other in (*others, *extra)]
        total -= math.log(terms[index] / sum(terms))
    return total / len(rows)


def rows(count: int, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def doubled(tokens: list[int], places: list[bool]) -> list[int]:
    return [token for token, twice in zip(tokens, places, strict=True) for token in [token] * (1 + twice)]
