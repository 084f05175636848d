"""A span that is planted: it holds three sentences."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from attacks.text._prefixes import Front
from attacks.text._span_search import SpanReading
from attacks.text._span_tests import ShareThreshold
from attacks.text._subspaces import Subspace
from fedsim.core.types import InputSpec

SENTENCES = ((1, 2, 3), (1, 4), (5, 2, 2, 1))
INSIDE, OUTSIDE = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
PLANE = Subspace("second", torch.diag(OUTSIDE.double()), 1.0, 0.0)
FIRST = Subspace("first", torch.diag(INSIDE.double()), 1.0, 0.0)


@dataclass
class Planted:
    """Reads inputs inside of the spans for tokens and beginnings of the sentences, and outside for all others."""

    places: bool = True

    def knows_places(self) -> bool:
        return self.places

    def read_first(self, tokens: Tensor) -> Tensor:
        known = {token for own in SENTENCES for token in own}
        return torch.stack([torch.stack([OUTSIDE if int(t) in known else INSIDE for t in row]) for row in tokens])

    def read_behind(self, prefixes: Tensor, tokens: Tensor) -> list[Tensor]:
        beginnings = {own[:end] for own in SENTENCES for end in range(1, len(own) + 1)}
        fits = [[(*row, token) in beginnings for token in tokens.tolist()] for row in prefixes.tolist()]
        return [torch.stack([torch.stack([INSIDE if one else OUTSIDE for one in row]) for row in fits])]

    def read_all(self, tokens: Tensor) -> list[Tensor]:
        whole = [tuple(t for t in row if t) in SENTENCES for row in tokens.tolist()]
        return [torch.stack([(INSIDE if own else OUTSIDE).expand(tokens.shape[1], 2) for own in whole])]


def reading(most: int = 100, **front: Any) -> SpanReading:
    return SpanReading(cast("Front", Planted(**front)), [FIRST, PLANE], ShareThreshold(tolerance=0.1, max_inside=most))


def spec(length: int = 4) -> InputSpec:
    return InputSpec((length,), 8, (), (), vocabulary=8, padding=0)
