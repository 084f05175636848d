"""aded: drafts a tree of tokens from an adaptive trigram table, and verifies it in a forward pass of the model.

Idea: no second model drafts; a tree search distributes a few draft tokens over likely continuations, and repeated text
    is predicted.
Equation: the search visits the child with largest W/n + (c1 + ln((N + c2 + 1)/c2)) p sqrt(N)/(1 + n), p = M[a,b][c]. At
    each node one token is sampled from the model; a child with this token is accepted. Before each draft, the trigrams
    of the last 16 tokens are updated: M[a,b][c] <- min(M[a,b][c] + 0.04, 3).
Assumes: a causal language model; texts that repeat themselves or the texts of the initial table.
Leaks: the number of tokens per step shows where a text repeats earlier text, with `persist` also that of other users.
Fails: new text is not predicted, and verifying the tree costs more than it saves.
Source: Liu, Lei, Zhang, Xu 2025, arXiv 2407.12021; samples once per node, where its code samples once per path.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import ClassVar, Self, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.decoder._drafting import DraftedTexts, count_text_tokens
from fedsim.components.decoder._drawing import draw
from fedsim.components.decoder._odds import DrawConfig, finite
from fedsim.core.errors import FedsimError, first_line
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, check_scores
from fedsim.core.nets.kv_cache import DecodingCache, Draft, stack_of
from fedsim.core.nets.kv_cache.stack import Weighted
from fedsim.core.registry import component
from fedsim.core.types import Event

Pair = tuple[int, int]
Successors = Mapping[int, float]
_GAIN, _MOST, _WINDOW, _SUCCESSORS = 0.04, 3.0, 16, 12
_C1, _C2 = 32.0, 8.0


class AdedConfig(DrawConfig):
    """Settings of the draft and the search."""

    table: Path | None = Field(default=None, description="tri-grams to begin with, see save_table; absent: none")
    adaptive: bool = Field(default=True, description="whether the table learns from the text")
    prompt: bool = Field(default=False, description="whether it learns the whole prompt at the start")
    persist: bool = Field(default=False, description="whether the decoder keeps its learned table for later texts")
    iterations: int = Field(default=60, ge=1, description="of the search, each step")
    depth: int = Field(default=4, ge=1, description="tokens of the longest path")
    paths: int = Field(default=24, ge=1, description="number of paths kept, by number of visits")
    nodes: int = Field(default=32, ge=1, description="tokens of a draft, at most")


class TrigramTable:
    """Immutable table of trigram scores: weights of the next token for each pair of tokens."""

    def __init__(self, base: Mapping[Pair, Successors], changed: Mapping[Pair, Successors] | None = None) -> None:
        self._base, self._changed = base, changed or {}

    def successors_of(self, pair: Pair) -> Successors:
        """Return the scores of the tokens that follow a pair."""
        successors = self._changed.get(pair)
        return self._base.get(pair, {}) if successors is None else successors

    def learn_text(self, text: Sequence[int], length: int = _WINDOW) -> TrigramTable:
        """Return a new table, updated with the trigrams of the last `length` tokens of a text."""
        window = text[-length:]
        changed = dict(self._changed)
        for (*pair, token), count in Counter(zip(window, window[1:], window[2:], strict=False)).items():
            key = (pair[0], pair[1])
            before = changed.get(key) or self.successors_of(key)
            changed[key] = {**before, token: min(before.get(token, 0.0) + _GAIN * count, _MOST)}
        return TrigramTable(self._base, changed)


@dataclass
class _Node:
    pair: Pair
    prior: float = 0.0
    visits: int = 0
    worth: float = 0.0
    children: list[_Node] = field(default_factory=list["_Node"])

    def best(self) -> _Node:
        """Return the child to visit: the unvisited one with the highest prior, else that with the highest bound."""
        spread = (_C1 + math.log((self.visits + _C2 + 1) / _C2)) * math.sqrt(self.visits)
        return max(
            self.children,
            key=lambda child: (
                (1, child.prior)
                if not child.visits
                else (0, child.worth / child.visits + spread * child.prior / (1 + child.visits))
            ),
        )

    def ways(self, before: tuple[int, ...] = ()) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the visits and the token path of each descendant."""
        for child in self.children:
            way = (*before, child.pair[1])
            yield child.visits, way
            yield from child.ways(way)


def search(
    table: TrigramTable, pair: Pair, config: AdedConfig, depth: int, chances: Iterator[float]
) -> list[tuple[int, ...]]:
    """Return paths after a pair of tokens, most visited first, each extended by its most likely successor.

    Args:
        table: trigram scores.
        pair: the last two tokens of the text.
        config: iterations and number of paths.
        depth: maximum length of a path, including the successor.
        chances: uniform random numbers, one per token of a rollout.
    """
    root, states = _Node(pair), max(2, depth)
    for _ in range(config.iterations):
        path = [root]
        while path[-1].children and len(path) < states:
            path.append(path[-1].best())
        if len(path) < states and not path[-1].children:
            after = table.successors_of(path[-1].pair)
            path[-1].children = [_Node((path[-1].pair[1], token), prior) for token, prior in after.items()]
            path += [path[-1].best()] if path[-1].children else []
        worth = 1.0 + sum(node.prior for node in path) + _rollout(table, path[-1].pair, states - len(path), chances)
        for node in path:
            node.visits += 1
            node.worth += worth
    ordered = sorted(root.ways(), key=lambda way: -way[0])[: config.paths]
    return [_extend_path(table, pair, way) if len(way) < depth else way for _, way in ordered]


def _rollout(table: TrigramTable, pair: Pair, length: int, chances: Iterator[float]) -> float:
    """Return the summed scores of `length` tokens sampled from the table."""
    worth = 0.0
    for _ in range(length):
        after = table.successors_of(pair)
        if not after:
            break
        left = next(chances) * sum(after.values())
        token = next(iter(after))
        for token, score in after.items():  # noqa: B007 - the last one stays where rounding leaves a rest
            left -= score
            if left < 0:
                break
        worth += after[token]
        pair = (pair[1], token)
    return worth


def _extend_path(table: TrigramTable, pair: Pair, way: tuple[int, ...]) -> tuple[int, ...]:
    *_, first, second = (*pair, *way)
    after = table.successors_of((first, second))
    return (*way, max(after, key=after.__getitem__)) if after else way


@dataclass
class Lasting:
    """Table that persists between texts with `persist`: all texts of a decoder read and update it.

    States and their copies share it, like a key-value cache. It changes the number of tokens per step, never the text's
    distribution.
    """

    table: TrigramTable | None = None

    def keep(self, places: Sequence[int]) -> Self:
        """Return this object, which belongs to no row."""
        return self


@dataclass(frozen=True)
class Adapting(DraftedTexts):
    """Texts, the table of each, and the persistent table; without `persist` each generation has its own."""

    tables: tuple[TrigramTable, ...]
    persistent_state: Lasting


@final
@component(
    "aded",
    summary="decoder: drafts of a tri-gram table that learns, exact",
    tier="research",
    paper="2407.12021",
    fidelity="variant",
    deviates="draws once a node, where its code draws once a path",
    paper_steps=(
        ("reduced tri-gram table that learns from drafts", "TrigramTable.learn_text"),
        ("choice of a child by PUCT with the table as prior", "_Node.best"),
        ("tree search with rollouts", "search"),
        ("verification by draws of the model", "Aded.step"),
    ),
)
class Aded(Decoder[AdedConfig, Adapting]):
    """Generates the draft tokens that the model samples too, and one more token per step."""

    counts: ClassVar[frozenset[str]] = frozenset({"proposed", "accepted"})
    exact: ClassVar[bool] = True

    def __init__(self, config: AdedConfig) -> None:
        super().__init__(config)
        self.lasting = Lasting()  # shared between texts; used with `persist` only

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Adapting:
        """Return the prompts and the table of each.

        Raises:
            FedsimError: the table's file cannot be read, or was counted with another tokenizer.
        """
        lasting = self.lasting if self.config.persist else Lasting()
        tables = (lasting.table or TrigramTable(self._base(model, condition.prompts[0][:1])),) * len(condition)
        lengths = tuple(map(len, condition.prompts))
        if self.config.prompt:
            tables = self._learn_texts(tables, condition.prompts, max(lengths))
        if self.config.persist:
            lasting.table = tables[-1]
        return Adapting(condition.prompts, lengths, tables, lasting)

    def step(self, model: nn.Module, state: Adapting, context: GenerationContext) -> tuple[Adapting, list[Event]]:
        """Draft a tree, verify it, and append the accepted path and one more token."""
        tables = state.tables if state.persistent_state.table is None else (state.persistent_state.table,) * len(state)
        if self.config.adaptive:
            tables = self._learn_texts(tables, state.tokens, _WINDOW)
        drafts = [
            self._draft(table, text, state.room(row, context, self.config.depth), generator)
            for row, (table, text, generator) in enumerate(zip(tables, state.tokens, context.generators, strict=True))
        ]
        scores = state.past.scores(model, state.tokens, drafts)
        check_scores(scores)
        ways = [self._follow(*draft) for draft in zip(drafts, scores, context.generators, strict=True)]
        new = [tokens for tokens, _ in ways]
        events = [
            Event(proposed=len(draft), accepted=min(passed, count_text_tokens(tokens, context)))
            for draft, (tokens, passed) in zip(drafts, ways, strict=True)
        ]
        if self.config.persist:
            state.persistent_state.table = tables[-1]
        return replace(state.append_tokens(new), tables=tables), events

    def _learn_texts(
        self, tables: tuple[TrigramTable, ...], texts: Sequence[Sequence[int]], length: int
    ) -> tuple[TrigramTable, ...]:
        """Return tables updated with the texts' last tokens: one per text, or with `persist` one for all."""
        if not self.config.persist:
            return tuple(table.learn_text(text, length) for table, text in zip(tables, texts, strict=True))
        table = tables[0]
        for text in texts:
            table = table.learn_text(text, length)
        return (table,) * len(texts)

    def _draft(self, table: TrigramTable, text: Sequence[int], depth: int, generator: torch.Generator) -> Draft:
        if depth == 0 or len(text) == 1:
            return Draft()
        numbers = torch.rand(self.config.iterations * (1 + depth), generator=generator, dtype=torch.double)
        ways = search(table, (text[-2], text[-1]), self.config, depth, iter(numbers.tolist()))
        return Draft.tree(ways, self.config.nodes)

    def _follow(self, draft: Draft, scores: Tensor, generator: torch.Generator) -> tuple[list[int], int]:
        """Sample tokens from the model until no child matches; return them and the number of accepted nodes."""
        new: list[int] = []
        node = -1
        while len(finite(scores[1 + node : 2 + node])):
            new += draw(self.config.odds(scores[1 + node : 2 + node]), [generator])
            child = draft.children(node).get(new[-1])
            if child is None:
                return new, len(new) - 1
            node = child
        return new, len(new)

    def _base(self, model: nn.Module, token: tuple[int, ...]) -> Mapping[Pair, Successors]:
        if self.config.table is None:
            return {}
        base, highest = _load_table(self.config.table)
        stack = stack_of(model)
        weight = stack.weight if isinstance(stack, Weighted) else None
        vocabulary = DecodingCache().scores(model, [token])[0].shape[-1] if weight is None else len(weight)
        if highest >= vocabulary:
            raise FedsimError(
                f"table: {self.config.table} holds token {highest}, the model has {vocabulary}: it was counted with "
                "another tokenizer. Count it with the model's own."
            )
        return base


def count_table(texts: Iterable[Sequence[int]]) -> dict[Pair, dict[int, float]]:
    """Return the relative frequencies of the (at most 12) most frequent successors of each pair of tokens."""
    counts: dict[Pair, Counter[int]] = {}
    for text in texts:
        for first, second, third in zip(text, text[1:], text[2:], strict=False):
            counts.setdefault((first, second), Counter())[third] += 1
    return {
        pair: {token: count / successors.total() for token, count in islice(successors.most_common(), _SUCCESSORS)}
        for pair, successors in counts.items()
    }


def save_table(path: Path, table: Mapping[Pair, Successors]) -> None:
    """Write a table to a JSON file for setting `table`."""
    path.write_text(json.dumps([[*pair, list(after.items())] for pair, after in table.items()]), encoding="utf-8")


def _load_table(path: Path) -> tuple[Mapping[Pair, Successors], int]:
    """Return a table and its highest token; a file is read again only if it changed."""
    status = path.stat() if path.exists() else None
    return _read(path, status and (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _read(path: Path, _stamp: tuple[int, ...] | None) -> tuple[Mapping[Pair, Successors], int]:
    base = load_table(path)
    return base, max((max(*pair, *after) for pair, after in base.items()), default=0)


def load_table(path: Path) -> dict[Pair, dict[int, float]]:
    """Load a table from a JSON file.

    Raises:
        FedsimError: the file cannot be read or has another format.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {(int(a), int(b)): {int(c): float(p) for c, p in after} for a, b, after in rows}
    except (OSError, ValueError, TypeError) as error:
        raise FedsimError(
            f"table: {path} is no table of tri-grams: {first_line(error)}. Write one with "
            "fedsim.components.decoder.aded.save_table."
        ) from error
