"""Code of decoders that look at several texts of one row: the model's scores of them, each text of a row asked once."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from fedsim.core.errors import CannotContinue
from fedsim.core.hooks import check_scores
from fedsim.core.past import Past

Text = tuple[int, ...]


class AheadScores(NamedTuple):
    """Scores (N, V) of the token behind each text, and how many texts of each row the model was shown."""

    scores: Tensor
    shown: list[int]


class LookAhead:
    """What a model has read of the texts that were asked about last. It saves work and changes no score.

    Texts that branch from one take over what was read of it. So states and their copies may share one, and a row that
    leaves is forgotten with the next question.
    """

    def __init__(self) -> None:
        self._past = Past()
        self._texts: list[Text] = []

    def keep(self, places: Sequence[int]) -> Self:
        """Return itself: what was read belongs to texts, and to no rows."""
        return self

    def scores(self, model: nn.Module, texts: Sequence[Text], owners: Sequence[int], rows: int) -> AheadScores:
        """Return the model's scores of the token behind texts, of which several belong to a row.

        Args:
            model: tokens (B, T) to scores of the next token (B, T, V).
            texts: N of them, any lengths from one token; equal ones of a row are shown once.
            owners: place of the row that each belongs to.
            rows: how many there are.

        Raises:
            CannotContinue: scores are no numbers, for the rows that the texts belong to.
        """
        places = {key: place for place, key in enumerate(dict.fromkeys(zip(owners, texts, strict=True)))}
        shown = list(places)
        scores = self._read(model, [text for _, text in shown])
        try:
            check_scores(scores)
        except CannotContinue as error:
            raise CannotContinue(str(error), sorted({shown[place][0] for place in error.rows})) from error
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
        """Return the place of the text that each goes on from, or of one with the longest common beginning."""
        known = {text: place for place, text in enumerate(self._texts)}
        places = [known.get(text[:-1], known.get(text)) for text in texts]
        ordered = sorted(known) if None in places else []
        pairs = zip(texts, places, strict=True)
        return [known[_nearest(ordered, text)] if place is None else place for text, place in pairs]


def _nearest(ordered: Sequence[Text], text: Text) -> Text:
    """Return the text with the longest common beginning: in sorted order it stands right before `text`, or behind."""
    place = bisect(ordered, text)
    return max(ordered[max(place - 1, 0) : place + 1], key=lambda other: _shared(other, text))


def _shared(first: Text, second: Text) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (token, other) in pairs if token != other), min(len(first), len(second)))
