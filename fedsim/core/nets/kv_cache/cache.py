"""Key-value cache by row of text, and next-token scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.kept_tokens import reducing_places
from fedsim.core.nets.kv_cache.draft import Draft
from fedsim.core.nets.kv_cache.incremental import IncrementalForward
from fedsim.core.nets.kv_cache.key_values import KVCache
from fedsim.core.nets.kv_cache.stack import LayerStack, stack_of
from fedsim.core.nets.kv_cache.whole_texts import reads_whole_texts

_ROWS_AT_ONCE = 16  # batch size without a cache, where scores of all positions are computed
_AT_ONCE = 512  # tokens per pass; the mask of a longer pass would need more memory than the weights


class DecodingCache:
    """Key-value cache of each row, so that no token is processed twice. Scores do not depend on it.

    A text is processed from its longest cached prefix on. This rolls back rejected draft tokens and keeps accepted
    ones, along any branch of a tree. So states and their copies may share one cache, and no caller has to report a
    rollback.

    Without known layers, or with gradients enabled, each text is processed from the beginning.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._reduces = False
        self._stack: LayerStack | None = None
        self._store = KVCache(0, 0)
        self._rows: list[_Row] = []

    @property
    def lengths(self) -> list[int]:
        """Number of cached tokens of each row, without drafts."""
        return [len(row.tokens) for row in self._rows]

    @property
    def key_counts(self) -> list[list[int]]:
        """Number of keys of each row by layer, including drafts."""
        return [list(counts) for counts in self._store.held]

    def keep(self, places: Sequence[int]) -> DecodingCache:
        """Return a copy with the given rows, in this order; a row may occur twice."""
        kept = DecodingCache()
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
        """Return the scores after each text and after each node of its draft, shape (1 + nodes, V) per row.

        Args:
            model: causal model, maps tokens (B, T) to scores of the next token (B, T, V).
            texts: nonempty rows of any length.
            drafts: draft of each row; default none.
            layers: layers that run on uncached tokens; default all.

        Raises:
            FedsimError: the output is no score of each token, or `layers` is given and the model's layers are unknown.
        """
        drafts = drafts or [Draft()] * len(texts)
        if not self._bind(model, len(texts)):
            if layers is not None:
                raise FedsimError(_UNKNOWN_LAYERS)
            return _anew(model, texts, drafts)
        hidden, counts = self.states(model, texts, drafts, layers)
        wanted = [1 + len(draft) for draft in drafts]
        ends = torch.cat([row[count - want : count] for row, count, want in zip(hidden, counts, wanted, strict=True)])
        return list(self._bound_stack.score(ends).split(wanted))

    def states(
        self,
        model: nn.Module,
        texts: Sequence[Sequence[int]],
        drafts: Sequence[Draft] | None = None,
        layers: Sequence[int] | None = None,
        seen: Callable[[int, Tensor], None] | None = None,
    ) -> tuple[Tensor, list[int]]:
        """Return hidden states (B, T, width) of the newly processed tokens, after the last layer that ran.

        Args:
            model: as in `scores`.
            texts: as in `scores`. The last token of each is processed even if it was cached.
            drafts: as in `scores`.
            layers: as in `scores`.
            seen: called with index and output of each layer, except in the early parts of long texts.

        Returns:
            The states, and the number of tokens of each row; states after these are padding.

        Raises:
            FedsimError: the layers of the model are unknown.
        """
        drafts = drafts or [Draft()] * len(texts)
        if not self._bind(model, len(texts)):
            raise FedsimError(_UNKNOWN_LAYERS)
        used_layers = tuple(range(self._bound_stack.depth)) if layers is None else tuple(layers)
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
        """Run more layers on the newest tokens of each row, and return their output.

        Args:
            hidden: output of the previous layers for the newest T tokens, shape (B, T, width).
            layers: layers to run.
            seen: as in `states`.
        """
        length = hidden.shape[1]
        texts = [row.tokens[-length:] for row in self._rows]
        starts = [len(row.tokens) - length for row in self._rows]
        reading = IncrementalForward(
            self._bound_stack, self._store, texts, starts, [Draft()] * len(texts), hidden.device
        )
        reading.locate(hidden)
        hidden = self._run(reading, hidden, layers, seen)
        for row in self._rows:
            row.layers[-length:] = [(*before, *layers) for before in row.layers[-length:]]
        return hidden

    @property
    def _bound_stack(self) -> LayerStack:
        assert self._stack is not None, "a model was bound that has layers"
        return self._stack

    def _bind(self, model: nn.Module, rows: int) -> bool:
        """Bind the cache to a model and a number of rows; return whether the model's layers can be run."""
        if self._model is not model:
            self._model, self._rows, self._reduces = model, [], bool(reducing_places(model))
        is_whole = self._reduces or torch.is_grad_enabled() or reads_whole_texts()
        stack = None if is_whole else stack_of(model)
        if stack is None:
            return False
        if self._stack is None or len(self._rows) != rows:
            self._rows, self._store = [_Row() for _ in range(rows)], KVCache(stack.depth, rows)
        self._stack = stack
        return True

    def _align(self, row: int, text: Sequence[int]) -> None:
        """Remove cached tokens that a row does not share with a text, and its last token, which must be processed."""
        stored = self._rows[row]
        draft, keys, stored.draft = stored.draft, stored.draft_layers, Draft()
        if len(draft):
            self._store.drop(row, keys, len(draft))
        common = stored.count_shared(text)
        for layers in stored.layers[common:]:
            self._store.drop(row, layers)
        is_next = len(stored.tokens) == common < len(text) - 1
        del stored.tokens[common:], stored.layers[common:]
        if is_next and len(draft):
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
        reading = IncrementalForward(self._bound_stack, self._store, new, starts, drafts, device)
        hidden = self._run(reading, reading.embed(), layers, seen)
        for row, new_tokens, draft in zip(self._rows, new, drafts, strict=True):
            row.tokens += new_tokens
            row.layers += [layers] * len(new_tokens)
            row.draft, row.draft_layers = draft, layers
        return hidden, reading.counts

    def _run(
        self,
        reading: IncrementalForward,
        hidden: Tensor,
        layers: Sequence[int],
        seen: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        try:
            for number in layers:
                hidden = reading.layer(number, hidden)
                if seen is not None:
                    seen(number, hidden)
        except BaseException:
            self._rows, self._stack = [], None  # layers are out of sync: start with an empty cache
            raise
        return hidden


class _Row:
    """Cached tokens of a row, the layers that ran on each, and the draft processed after them."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.layers: list[tuple[int, ...]] = []
        self.draft = Draft()
        self.draft_layers: tuple[int, ...] = ()

    def copy(self) -> _Row:
        """Return an independent copy."""
        row = _Row()
        row.tokens, row.layers = list(self.tokens), list(self.layers)
        row.draft, row.draft_layers = self.draft, self.draft_layers
        return row

    def count_shared(self, text: Sequence[int]) -> int:
        """Return the length of the common prefix with a text without its last token."""
        limit = min(len(self.tokens), len(text) - 1)
        if self.tokens[:limit] == list(text[:limit]):
            return limit
        return next(place for place in range(limit) if self.tokens[place] != text[place])


_UNKNOWN_LAYERS = (
    "this decoder runs single layers, and fedsim cannot find the layers of this model. Use "
    "model 'tiny-llama', or a Llama-style checkpoint without token reducers."
)


def _anew(model: nn.Module, texts: Sequence[Sequence[int]], drafts: Sequence[Draft]) -> list[Tensor]:
    """Return the scores by processing each text, with each branch of its draft, from the beginning."""
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
            f"the model returns scores of shape {tuple(scores.shape)} for tokens of shape "
            f"{tuple(tokens.shape)}; a decoder needs next-token scores over the vocabulary at "
            "each position, (B, T, V). Use a causal language model."
        )
    return scores
