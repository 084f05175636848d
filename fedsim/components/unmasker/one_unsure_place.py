"""one-unsure-place: besides confident positions, unmasks an uncertain position per round that informs the others.

Idea: the number of rounds is at least the text's information over the information written per round; confident tokens
    carry little, so an uncertain token per round is written on purpose. Its cost is at most the entropy of the
    confident ones: C(S) <= sum_i H_i - max_i H_i.
Equation: write E = {c_i >= tau in the first open block, >= tau_x in the next}, and Q = argmax u_i g_i outside E; u:
    entropy, g = 1 next to a written position, else 0.5. With branches b > 1 the b most likely tokens of Q are evaluated
    in one pass and ranked by log p_v + lambda mean log c' of the positions that remain masked. With `verify` a token of
    Q is written one round later, if its probability given that round's tokens is at least `verify`.
Assumes: a model that fills masked positions. No training.
Leaks: rounds depend less on the text's information than with a threshold; explored positions are uncertain.
Fails: for dependent uncertain positions in the same round; far from written tokens, entropy reflects missing context.
Source: inspired by "From Bits to Rounds", 2025, arXiv 2511.21103; the rule and the constants are chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.unmasker._blocks import BlockConfig, InBlocks, Proposed, block_places, propose, surest
from fedsim.core.errors import GenerationError
from fedsim.core.hooks import GenerationContext, GenerationInputs, MaskedTextState
from fedsim.core.registry import component
from fedsim.core.types import Event


class OneUnsurePlaceConfig(BlockConfig):
    """Settings of one-unsure-place."""

    threshold: float = Field(default=0.9, ge=0, description="tau, in the first open block")
    later_threshold: float = Field(default=0.95, ge=0, description="tau_x, in the blocks behind it")
    later_blocks: int = Field(
        default=1, ge=0, description="X, number of blocks after the first open block that are open too"
    )
    explored_positions: int = Field(
        default=1, ge=0, description="e, unsure places that a round writes; 0: as a threshold does"
    )
    when: Literal["always", "stalled"] = Field(
        default="always", description="stalled: explore only where fewer than `fewest` places are sure"
    )
    fewest: int = Field(default=2, ge=1, description="sure places from which a round is not stalled")
    near: int = Field(default=2, ge=1, description="w, distance to a written place up to which g is 1")
    apart: int = Field(default=4, ge=0, description="least distance of two explored places")
    least: float = Field(default=0.2, ge=0, le=1, description="confidence below which the model has no opinion")
    branches: int = Field(default=1, ge=1, description="b, tokens that are tried at the first explored place")
    ahead: float = Field(default=1.0, ge=0, description="lambda, weight of the positions that a branch leaves masked")
    verify: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability below which an explored token is masked again, once, in the next round; 0: never",
    )


class Round(NamedTuple):
    """Positions written in a round, by rule, and the negative log-probability of each token when it was written."""

    sure: tuple[int, ...]
    explored_positions: tuple[int, ...]
    nats: tuple[float, ...]


@dataclass(frozen=True)
class Exploring(MaskedTextState):
    """Partially unmasked texts.

    Attributes:
        rounds: finished rounds per row.
        next_scores: scores (T, V) of a row's next round, if a branch has computed them.
        explored_tokens: explored tokens by position, shown to the model, which the next round writes or masks again.
        remasked_positions: positions where an explored token was masked again.
    """

    rounds: tuple[tuple[Round, ...], ...]
    next_scores: tuple[Tensor | None, ...]
    explored_tokens: tuple[Mapping[int, int], ...]
    remasked_positions: tuple[frozenset[int], ...]


_NOTHING = Proposed((), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.double)), list[int](), list[int]()


class _Taken(NamedTuple):
    """Result of a round for a row: written tokens, and the row's new state."""

    new: dict[int, int]
    log: Round
    next_scores: Tensor | None
    explored_tokens: dict[int, int]
    remasked_positions: frozenset[int]
    event: Event


@final
@component(
    "one-unsure-place",
    aliases=("explore-then-exploit",),
    summary="unmasker: confident positions and an uncertain position per round",
    tier="research",
    paper="2511.21103",
    fidelity="inspired",
    deviates="only summaries were read; the exploring rule is chosen here",
    paper_steps=(
        ("all confident positions and a single uncertain position per round", "OneUnsurePlace.choose_positions"),
        ("lookahead over the likeliest tokens", "OneUnsurePlace._look_ahead"),
        ("bounds on rounds by information", "analyse"),
    ),
)
class OneUnsurePlace(InBlocks[OneUnsurePlaceConfig, Exploring]):
    """Writes the confident positions of open blocks, and explores."""

    counts: ClassVar[frozenset[str]] = frozenset({"unmasked", "masked", "positions", "explored", "rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Exploring:
        """Return the prompts followed by masked positions.

        Raises:
            FedsimError: the block does not divide an answer.
            GenerationError: the model cannot read some prompts.
        """
        begun = self.begin(model, condition, context)
        rows = len(begun)
        places = begun.tokens, begun.begins, begun.masked_positions
        return Exploring(*places, ((),) * rows, (None,) * rows, ({},) * rows, (frozenset(),) * rows)

    def step(self, model: nn.Module, state: Exploring, context: GenerationContext) -> tuple[Exploring, list[Event]]:
        """Run a round of each row.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        all_scores = self._scores(model, state.write_tokens(state.explored_tokens))
        rows: list[_Taken] = []
        for row, (scores, generator) in enumerate(zip(all_scores, context.generators, strict=True)):
            try:
                rows.append(self._take(model, state.keep([row]), scores, generator))
            except GenerationError as error:
                raise GenerationError(str(error), [row]) from None
        after = replace(
            state.write_tokens([taken.new for taken in rows]),
            rounds=tuple((*log, taken.log) for log, taken in zip(state.rounds, rows, strict=True)),
            next_scores=tuple(taken.next_scores for taken in rows),
            explored_tokens=tuple(taken.explored_tokens for taken in rows),
            remasked_positions=tuple(taken.remasked_positions for taken in rows),
        )
        return after, [taken.event for taken in rows]

    def _take(
        self, model: nn.Module, exploring: Exploring, scores: Tensor | None, generator: torch.Generator
    ) -> _Taken:
        """Run a round of a row."""
        proposed, sure, explored = _NOTHING
        if scores is not None:
            proposed, sure, explored = self.choose_positions(
                exploring.write_tokens(exploring.explored_tokens), 0, scores, generator
            )
        stood = self._verify_tokens(model, exploring.write_tokens([proposed.select_tokens(sure)]))
        doubted = exploring.remasked_positions[0] | (set(exploring.explored_tokens[0]) - set(stood))
        on_trial = [number for number in explored if self.config.verify and proposed.places[number] not in doubted]
        shown = proposed.select_tokens([*sure, *explored]) | {
            place: exploring.explored_tokens[0][place] for place in stood
        }
        known, branches = None, 0
        if scores is not None and self.config.branches > 1 and explored:
            place = proposed.places[explored[0]]
            shown[place], known, branches = self._look_ahead(model, exploring, scores, shown, place)
        trial = {proposed.places[number]: shown[proposed.places[number]] for number in on_trial}
        new = {place: token for place, token in shown.items() if place not in trial}
        passes = (
            branches + (scores is not None and exploring.next_scores[0] is None) + bool(exploring.explored_tokens[0])
        )
        at_once = [number for number in explored if number not in on_trial]
        log = _round(proposed, sure, at_once, new, scores, stood)
        return _Taken(new, log, known, trial, doubted, _event(exploring, new, len(explored), passes))

    def _verify_tokens(self, model: nn.Module, exploring: Exploring) -> dict[int, float]:
        """Return the positions of explored tokens that pass verification, with their negative log-probability."""
        if not exploring.explored_tokens[0]:
            return {}
        (scores,) = self.place_scores(model, exploring)
        nats = {
            place: -float(scores[place].double().log_softmax(-1)[token])
            for place, token in exploring.explored_tokens[0].items()
        }
        return {place: place_nats for place, place_nats in nats.items() if math.exp(-place_nats) >= self.config.verify}

    def choose_positions(
        self, state: Exploring, row: int, scores: Tensor, generator: torch.Generator
    ) -> tuple[Proposed, list[int], list[int]]:
        """Return the proposals in a row's open blocks, and the indices of confident and of explored positions."""
        block = block_places(state, row, self.config.block)
        places = self._open_places(state, row)
        proposed = propose(scores[list(places)], places, self.config, generator)
        confidence = proposed.confidence.tolist()
        sure = [
            number
            for number, place in enumerate(places)
            if confidence[number] >= (self.config.threshold if place in block else self.config.later_threshold)
        ]
        explored = self._choose_explored(state, row, scores, proposed, sure)
        if not sure and not explored:
            return proposed, surest(proposed.confidence[: len(block)], 1), []
        return proposed, sure, explored

    def _choose_explored(
        self, state: Exploring, row: int, scores: Tensor, proposed: Proposed, sure: Sequence[int]
    ) -> list[int]:
        """Return the indices of the positions to explore, in descending order of score."""
        config = self.config
        if config.when == "stalled" and len(sure) >= config.fewest:
            return []
        block = len(block_places(state, row, config.block))
        odds = scores[list(proposed.places[:block])].double().softmax(-1)
        nearness = torch.tensor([1.0 if self._is_near(state, row, place) else 0.5 for place in proposed.places[:block]])
        order = (torch.special.entr(odds).sum(-1) * nearness).sort(descending=True, stable=True).indices.tolist()
        left = [number for number in order if number not in sure]
        known = [number for number in left if float(odds[number].amax()) >= config.least]
        chosen: list[int] = []
        for number in known or left:
            place = proposed.places[number]
            if len(chosen) < config.explored_positions and all(
                abs(place - proposed.places[index]) >= config.apart for index in chosen
            ):
                chosen.append(number)
        return chosen

    def _is_near(self, state: Exploring, row: int, place: int) -> bool:
        """Return whether a written position is within distance `near`."""
        masked, last = set(state.masked_positions[row]), len(state.tokens[row])
        neighbours = range(max(0, place - self.config.near), min(last, place + self.config.near + 1))
        return any(neighbour not in masked for neighbour in neighbours)

    def _open_places(self, state: Exploring, row: int) -> tuple[int, ...]:
        """Return the masked positions of the first open block and of the open blocks after it."""
        size, masked, begin = self.config.block, state.masked_positions[row], state.begins[row]
        if size is None:
            return masked
        last = begin + size * ((masked[0] - begin) // size + 1 + self.config.later_blocks)
        return tuple(place for place in masked if place < last)

    def _scores(self, model: nn.Module, shown: Exploring) -> list[Tensor | None]:
        """Return the scores of each row, from the chosen branch or else from a pass; None if not needed.

        They are not needed if each masked position has an explored token awaiting verification.
        """
        unread = [row for row, known in enumerate(shown.next_scores) if known is None and shown.masked_positions[row]]
        if not unread:
            return list(shown.next_scores)
        try:
            read = dict(zip(unread, self.place_scores(model, shown.keep(unread)), strict=True))
        except GenerationError as error:
            raise GenerationError(str(error), [unread[row] for row in error.rows]) from None
        return [read.get(row, known) for row, known in enumerate(shown.next_scores)]

    def _look_ahead(
        self, model: nn.Module, exploring: Exploring, scores: Tensor, taken: dict[int, int], place: int
    ) -> tuple[int, Tensor | None, int]:
        """Return the token of the best branch at a position, the scores after it, and the number of rows evaluated."""
        odds = scores[place].double().log_softmax(-1)
        tokens: list[int] = odds.topk(min(self.config.branches, len(odds))).indices.tolist()
        branches = exploring.keep([0] * len(tokens)).write_tokens([{**taken, place: token} for token in tokens])
        if not branches.masked_positions[0]:
            return max(tokens, key=lambda token: float(odds[token])), None, 0
        read = self.place_scores(model, replace(branches, next_scores=(None,) * len(tokens)))
        open_places = list(self._open_places(branches, 0))
        left = [float(branch[open_places].double().log_softmax(-1).amax(-1).mean()) for branch in read]
        values = [
            float(odds[token]) + self.config.ahead * confidence for token, confidence in zip(tokens, left, strict=True)
        ]
        best = max(range(len(tokens)), key=values.__getitem__)
        return tokens[best], read[best], len(tokens)


def _round(
    proposed: Proposed,
    sure: Sequence[int],
    explored: Sequence[int],
    new: Mapping[int, int],
    scores: Tensor | None,
    stood: Mapping[int, float],
) -> Round:
    """Return the record of a round: confident, explored and verified positions."""
    places = [proposed.places[number] for number in (*sure, *explored)]
    nats = list(stood.values())
    if scores is not None:
        odds = scores[places].double().log_softmax(-1)
        nats = [*(-float(of_place[new[place]]) for of_place, place in zip(odds, places, strict=True)), *nats]
    return Round(tuple(places[: len(sure)]), (*places[len(sure) :], *stood), tuple(nats))


def _event(exploring: Exploring, new: dict[int, int], explored: int, passes: int) -> Event:
    return Event(
        unmasked=len(new),
        masked=len(exploring.masked_positions[0]),
        positions=passes * len(exploring.tokens[0]),
        explored=explored,
        rows=passes,
    )


class Bounds(NamedTuple):
    """Information-theoretic bound on the number of rounds of a text, in nats.

    Attributes:
        information: I, the sum of the negative log-probabilities of all tokens when they were written.
        largest: maximum information of a round.
        rounds: number of rounds.
        least: lower bound on rounds for any decoder with this maximum per round, I / largest.
    """

    information: float
    largest: float
    rounds: int
    least: float


def analyse(rounds: Sequence[Round]) -> Bounds:
    """Return the information of a text's rounds, and the resulting bound."""
    round_nats = [sum(round_.nats) for round_ in rounds]
    largest = max(round_nats)
    return Bounds(sum(round_nats), largest, len(rounds), sum(round_nats) / largest if largest > 0 else 0.0)
