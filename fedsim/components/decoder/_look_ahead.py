"""Model scores of several candidate texts per row; equal texts of a row are evaluated once."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from fedsim.core.errors import GenerationError
from fedsim.core.hooks import check_scores
from fedsim.core.nets.kv_cache import DecodingCache

Text = tuple[int, ...]


class AheadScores(NamedTuple):
    """Scores (N, V) of the next token of each text, and the number of texts evaluated per row."""

    scores: Tensor
    text_counts: list[int]


class LookAhead:
    """Key-value cache of the texts of the previous call. It saves work and never changes scores.

    Texts with a common prefix reuse its cache entries. Therefore states and their copies may share one instance, and
    entries of a removed row are dropped in the next call.
    """

    def __init__(self) -> None:
        self._past = DecodingCache()
        self._texts: list[Text] = []

    def keep(self, places: Sequence[int]) -> Self:
        """Return this object: cache entries belong to texts, not to rows."""
        return self

    def scores(self, model: nn.Module, texts: Sequence[Text], owners: Sequence[int], rows: int) -> AheadScores:
        """Return the model's scores of the next token of each text; a row may have several texts.

        Args:
            model: maps tokens (B, T) to scores of the next token (B, T, V).
            texts: N nonempty texts of any length; equal texts of a row are evaluated once.
            owners: row index of each text.
            rows: number of rows.

        Raises:
            GenerationError: scores are not finite; names the rows of these texts.
        """
        places = {key: place for place, key in enumerate(dict.fromkeys(zip(owners, texts, strict=True)))}
        shown = list(places)
        scores = self._read(model, [text for _, text in shown])
        try:
            check_scores(scores)
        except GenerationError as error:
            raise GenerationError(str(error), sorted({shown[place][0] for place in error.rows})) from error
        chosen = [places[key] for key in zip(owners, texts, strict=True)]
        counts = Counter(owner for owner, _ in shown)
        return AheadScores(torch.cat([scores[place] for place in chosen]), [counts[row] for row in range(rows)])

    def _read(self, model: nn.Module, texts: list[Text]) -> list[Tensor]:
        if self._texts:
            sources = self._sources(texts)
            if sources != list(range(len(self._texts))):
                self._past = self._past.keep(sources)
        self._texts = texts
        return self._past.scores(model, texts)

    def _sources(self, texts: list[Text]) -> list[int]:
        """Return each text's source in the cache: its parent, else the text with the longest common prefix."""
        known = {text: place for place, text in enumerate(self._texts)}
        places = [known.get(text[:-1], known.get(text)) for text in texts]
        ordered = sorted(known) if None in places else []
        pairs = zip(texts, places, strict=True)
        return [known[_nearest(ordered, text)] if place is None else place for text, place in pairs]


def _nearest(ordered: Sequence[Text], text: Text) -> Text:
    """Return the text with the longest common prefix: a neighbour of `text` in sorted order."""
    place = bisect(ordered, text)
    return max(ordered[max(place - 1, 0) : place + 1], key=lambda candidate: _count_shared(candidate, text))


def _count_shared(first: Text, second: Text) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (token, second) in pairs if token != second), min(len(first), len(second)))
