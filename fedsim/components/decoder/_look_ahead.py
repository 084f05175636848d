"""Code of decoders that look at several texts of one row: the model's scores of them, each text of a row asked once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedsim.core.errors import CannotContinue
from fedsim.core.hooks import Decoder, Writing

_AT_ONCE = 16


class Asked(NamedTuple):
    """Scores (N, V) of the token behind each text, and how many texts of each row the model was shown."""

    scores: Tensor
    shown: list[int]


def scores_behind(
    decoder: Decoder[Any, Any],
    model: nn.Module,
    texts: Sequence[tuple[int, ...]],
    owners: Sequence[int],
    rows: int,
) -> Asked:
    """Return the model's scores of the token behind texts, of which several belong to a row.

    Args:
        decoder: asks the model.
        model: tokens (B, T) to scores of the next token (B, T, V).
        texts: N of them, any lengths from one token; equal ones of a row are shown once.
        owners: place of the row that each belongs to.
        rows: how many there are.

    Raises:
        CannotContinue: scores are no numbers, for the rows that the texts belong to.
    """
    places = {own: place for place, own in enumerate(dict.fromkeys(zip(owners, texts, strict=True)))}
    shown, found = list(places), list[Tensor]()
    for start in range(0, len(shown), _AT_ONCE):
        some = shown[start : start + _AT_ONCE]
        try:
            found.append(decoder.next_scores(model, Writing(tuple(text for _, text in some))))
        except CannotContinue as error:
            raise CannotContinue(str(error), sorted({some[place][0] for place in error.rows})) from error
    chosen = [places[own] for own in zip(owners, texts, strict=True)]
    counts = Counter(owner for owner, _ in shown)
    scores = torch.cat(found)[torch.tensor(chosen, device=found[0].device)]
    return Asked(scores, [counts[row] for row in range(rows)])
