"""What a model has read of each row of texts, and the scores of what comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.kept_tokens import reducing_places
from fedsim.core.past.draft import Draft
from fedsim.core.past.key_values import KeyValues
from fedsim.core.past.reading import Reading
from fedsim.core.past.stack import LayerStack, stack_of
from fedsim.core.past.whole_texts import reads_whole_texts

_ROWS_AT_ONCE = 16  # that are read from the beginning: their scores are those of every place
_AT_ONCE = 512  # tokens of a pass: the mask of a longer one would take more room than the weights


class Past:
    """What a model has read of each row, so that no token is read twice. It changes speed alone, never scores.

    A text that is asked for again with other tokens behind a common beginning is read from there on: this rolls a draft
    back of which only a part was taken, and keeps what was taken, along any branch of a tree. So a state and its copies
    may share one, and none has to say what it took back.

    A model whose layers are not known, or that is asked with gradients, is read anew each time.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._reduces = False
        self._stack: LayerStack | None = None
        self._store = KeyValues(0, 0)
        self._rows: list[_Row] = []

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row that were read, without drafts."""
        return [len(row.tokens) for row in self._rows]

    @property
    def held(self) -> list[list[int]]:
        """Of each layer, how many keys and values each row holds, drafts included."""
        return [list(counts) for counts in self._store.held]

    def keep(self, places: Sequence[int]) -> Past:
        """Return a copy with the rows at these places alone, in their order; a place may come twice."""
        kept = Past()
        kept._model, kept._reduces = self._model, self._reduces
        if self._rows:
            kept._stack = self._stack
            kept._store = self._store.keep(places)
            kept._rows = [self._rows[place].copy() for place in places]
        return kept

    def scores(
        self,
        model: nn.Module,
        texts: Sequence[Sequence[int]],
        drafts: Sequence[Draft] | None = None,
        layers: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Return the scores behind each text, and behind each node of its draft, shape (1 + nodes, V) for each row.

        Args:
            model: tokens (B, T) to scores of the next token (B, T, V); no token sees those behind it.
            texts: rows of any lengths from one token.
            drafts: what may follow each row; none where it is left out.
            layers: those that run on the tokens that were not read yet; all where it is left out.

        Raises:
            FedsimError: the model scores no tokens, or single layers of a model are asked for that cannot be told.
        """
        drafts = drafts or [Draft()] * len(texts)
        if not self._bind(model, len(texts)):
            if layers is not None:
                raise FedsimError(_UNKNOWN_LAYERS)
            return _anew(model, texts, drafts)
        hidden, counts = self.states(model, texts, drafts, layers)
        wanted = [1 + len(draft) for draft in drafts]
        ends = torch.cat([row[count - want : count] for row, count, want in zip(hidden, counts, wanted, strict=True)])
        return list(self._known.score(ends).split(wanted))

    def states(
        self,
        model: nn.Module,
        texts: Sequence[Sequence[int]],
        drafts: Sequence[Draft] | None = None,
        layers: Sequence[int] | None = None,
        seen: Callable[[int, Tensor], None] | None = None,
    ) -> tuple[Tensor, list[int]]:
        """Return hidden states (B, T, width) of the tokens that were read now, behind the last layer that ran.

        Args:
            model: see `scores`.
            texts: see `scores`. The last token of each is read even where it was read before.
            drafts: see `scores`.
            layers: see `scores`.
            seen: is called with number and output of each layer that runs, but for the early parts of long texts.

        Returns:
            The states, and how many of them each row has; behind those stands what fills up shorter rows.

        Raises:
            FedsimError: the layers of the model are not known.
        """
        drafts = drafts or [Draft()] * len(texts)
        if not self._bind(model, len(texts)):
            raise FedsimError(_UNKNOWN_LAYERS)
        used_layers = tuple(range(self._known.depth)) if layers is None else tuple(layers)
        for row, text in enumerate(texts):
            self._align(row, text)
        while max(len(text) - len(row.tokens) for text, row in zip(texts, self._rows, strict=True)) > _AT_ONCE:
            early = [text[: len(row.tokens) + _AT_ONCE] for text, row in zip(texts, self._rows, strict=True)]
            self._read(early, [Draft()] * len(texts), used_layers, None)
            for row, text in enumerate(texts):
                self._align(row, text)
        return self._read(texts, drafts, used_layers, seen)

    def deepen(
        self, hidden: Tensor, layers: Sequence[int], seen: Callable[[int, Tensor], None] | None = None
    ) -> Tensor:
        """Run more layers on the newest tokens of every row, and return what comes out.

        Args:
            hidden: what came out of the layers before, of the newest T tokens, shape (B, T, width).
            layers: those that run.
            seen: see `states`.
        """
        length = hidden.shape[1]
        texts = [row.tokens[-length:] for row in self._rows]
        starts = [len(row.tokens) - length for row in self._rows]
        reading = Reading(self._known, self._store, texts, starts, [Draft()] * len(texts), hidden.device)
        reading.locate(hidden)
        hidden = self._run(reading, hidden, layers, seen)
        for row in self._rows:
            row.layers[-length:] = [(*before, *layers) for before in row.layers[-length:]]
        return hidden

    @property
    def _known(self) -> LayerStack:
        assert self._stack is not None, "a model was bound that has layers"
        return self._stack

    def _bind(self, model: nn.Module, rows: int) -> bool:
        """Make ready for a model and a number of rows, and say whether its layers can be run."""
        if self._model is not model:
            self._model, self._rows, self._reduces = model, [], bool(reducing_places(model))
        is_whole = self._reduces or torch.is_grad_enabled() or reads_whole_texts()
        stack = None if is_whole else stack_of(model)
        if stack is None:
            return False
        if self._stack is None or len(self._rows) != rows:
            self._rows, self._store = [_Row() for _ in range(rows)], KeyValues(stack.depth, rows)
        self._stack = stack
        return True

    def _align(self, row: int, text: Sequence[int]) -> None:
        """Forget what a row does not share with a text, and its last token, which is to be read."""
        stored = self._rows[row]
        draft, keys, stored.draft = stored.draft, stored.draft_layers, Draft()
        if len(draft):
            self._store.drop(row, keys, len(draft))
        common = stored.shared(text)
        for layers in stored.layers[common:]:
            self._store.drop(row, layers)
        behind = len(stored.tokens) == common < len(text) - 1
        del stored.tokens[common:], stored.layers[common:]
        if behind and len(draft):
            nodes = draft.follow(text[common:-1])
            self._store.pick(row, keys, nodes)
            stored.tokens += [draft.tokens[node] for node in nodes]
            stored.layers += [keys] * len(nodes)

    def _read(
        self,
        texts: Sequence[Sequence[int]],
        drafts: Sequence[Draft],
        layers: tuple[int, ...],
        seen: Callable[[int, Tensor], None] | None,
    ) -> tuple[Tensor, list[int]]:
        assert self._model is not None
        starts = [len(row.tokens) for row in self._rows]
        new = [list(text[start:]) for text, start in zip(texts, starts, strict=True)]
        device = next((parameter.device for parameter in self._model.parameters()), None)
        reading = Reading(self._known, self._store, new, starts, drafts, device)
        hidden = self._run(reading, reading.embed(), layers, seen)
        for row, more, draft in zip(self._rows, new, drafts, strict=True):
            row.tokens += more
            row.layers += [layers] * len(more)
            row.draft, row.draft_layers = draft, layers
        return hidden, reading.counts

    def _run(
        self, reading: Reading, hidden: Tensor, layers: Sequence[int], seen: Callable[[int, Tensor], None] | None
    ) -> Tensor:
        try:
            for number in layers:
                hidden = reading.layer(number, hidden)
                if seen is not None:
                    seen(number, hidden)
        except BaseException:
            self._rows, self._stack = [], None  # some layers hold more than others; the next call begins anew
            raise
        return hidden


class _Row:
    """Tokens that were read of a row, the layers that ran on each, and a draft that was read behind them."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.layers: list[tuple[int, ...]] = []
        self.draft = Draft()
        self.draft_layers: tuple[int, ...] = ()

    def copy(self) -> _Row:
        """Return one that changes by itself."""
        row = _Row()
        row.tokens, row.layers = list(self.tokens), list(self.layers)
        row.draft, row.draft_layers = self.draft, self.draft_layers
        return row

    def shared(self, text: Sequence[int]) -> int:
        """Return how many tokens it shares with a text, of which the last does not count."""
        most = min(len(self.tokens), len(text) - 1)
        if self.tokens[:most] == list(text[:most]):
            return most
        return next(place for place in range(most) if self.tokens[place] != text[place])


_UNKNOWN_LAYERS = (
    "this decoder runs single layers, and those of this model are not known. Use model 'tiny-llama', or a checkpoint "
    "of Llama's kind without token reducers."
)


def _anew(model: nn.Module, texts: Sequence[Sequence[int]], drafts: Sequence[Draft]) -> list[Tensor]:
    """Return the scores by reading every text, with every branch of its draft, from the beginning."""
    rows: list[list[int]] = []
    spots: list[list[tuple[int, int]]] = []
    for text, draft in zip(texts, drafts, strict=True):
        row_spots = [(len(rows), len(text) - 1)] * (1 + len(draft))
        for way in draft.ways():
            for depth, node in enumerate(way):
                row_spots[1 + node] = (len(rows), len(text) + depth)
            rows.append([*text, *(draft.tokens[node] for node in way)])
        spots.append(row_spots)
    scores: list[Tensor] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        scores += _whole(model, rows[start : start + _ROWS_AT_ONCE])
    return [torch.stack([scores[row][place] for row, place in text_spots]) for text_spots in spots]


def _whole(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, rows))
    device = next((parameter.device for parameter in model.parameters()), None)
    tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=device)
    scores: Tensor = model(tokens)
    if scores.shape[:-1] != tokens.shape:
        raise FedsimError(
            f"the model returns scores of shape {tuple(scores.shape)} for tokens of shape {tuple(tokens.shape)}; a "
            "decoder needs one score for every token of the vocabulary behind each of them, (B, T, V). Use a "
            "causal language model."
        )
    return scores
