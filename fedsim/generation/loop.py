"""Generation loop for a batch of rows, which records their traces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import Generation, GenerationContext, GenerationInputs, MaskedTextState, Sampling, TextState
from fedsim.core.nets.kept_tokens import reducing_places
from fedsim.core.time_budget import check_deadline
from fedsim.core.types import Activations, Ending, Event, Generated, Limits, Trace
from fedsim.generation.reading import Inside, evaluation_mode, reading_inside

State = TextState | Sampling | MaskedTextState
WhatT = TypeVar("WhatT", GenerationInputs, State)
FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Piece:
    """New tokens of a row in a step; the last piece of a row also has its whole result.

    Attributes:
        row: index of the row in the request.
        tokens: new tokens.
        result: None until the row has ended.
        places: for unmasking, the position after the prompt of each new token; else empty.
    """

    row: int
    tokens: tuple[int, ...]
    result: Generated | None = None
    places: tuple[int, ...] = ()


@dataclass
class RowState:
    """The loop's state of a row.

    Attributes:
        number: index of the row in the request.
        generator: random source of the row.
        emitted_count: number of tokens of the state that belong to the prompt or were already emitted.
        text: for unmasking, current prompt and answer.
        masked_positions: for unmasking, the masked positions.
    """

    number: int
    generator: torch.Generator
    emitted_count: int = 0
    text: tuple[int, ...] = ()
    masked_positions: tuple[int, ...] = ()
    tokens: list[int] = field(default_factory=list)
    places: list[tuple[int, ...]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    activations: list[Activations] = field(default_factory=list)
    x: Tensor | None = None
    ending: Ending | None = None
    reason: str = ""

    def generate(self, ending: Ending) -> Generated:
        """Return the row's result."""
        return Generated(
            trace=Trace(tuple(self.counts), tuple(self.events), tuple(self.places)),
            ending=ending,
            tokens=tuple(self.tokens),
            x=self.x,
            reason=self.reason,
            seconds=tuple(self.seconds),
            activations=tuple(self.activations),
        )


class Loop:
    """Generates a batch of rows. Single use.

    Args:
        method: decoder, sampler or unmasker.
        model: the model.
        rows: at least one; exactly one if cuts or token reducers are recorded.
        context: inputs of each step; the loop fills in the generators.
        cuts: names of modules whose outputs are recorded.
    """

    def __init__(
        self,
        method: Generation[Any, Any],
        model: nn.Module,
        rows: list[RowState],
        context: GenerationContext,
        cuts: Sequence[str],
    ) -> None:
        self._method, self._model, self._rows = method, model, rows
        self._context, self._cuts = context, cuts
        # Collected once: walking through a large model is slow compared with a step.
        self._modules, self._reduces = list(model.modules()), bool(reducing_places(model))
        self._pieces: list[Piece] = []
        self._at_start, self._start_seconds = Inside(), 0.0

    def run(self, condition: GenerationInputs) -> Iterator[Piece]:
        """Yield the pieces of the rows in the order in which they are generated."""
        begin = time.perf_counter()
        with reading_inside(self._model, self._cuts, self._reduces) as self._at_start:
            state: State | None = self._ask(self._method.start, condition)
        self._start_seconds = time.perf_counter() - begin
        if isinstance(state, MaskedTextState):
            for row, text, masked in zip(self._rows, state.tokens, state.masked_positions, strict=True):
                row.text, row.masked_positions, row.tokens = text, masked, list(text[row.emitted_count :])
        while state is not None and self._rows:
            check_deadline()
            self._check_rows(len(state), "a state")
            self._end_finished(state)
            state = self._remove_ended(state)
            yield from self._hand_out()
            if self._rows:
                state = self._step(state)
        yield from self._hand_out()

    def _step(self, state: State) -> State | None:
        """Run a step; the time and records of `start` are added to the first step."""
        begin = time.perf_counter()
        with reading_inside(self._model, self._cuts, self._reduces) as reading:
            answer = self._ask(self._method.step, state)
        seconds = self._start_seconds + time.perf_counter() - begin
        reading = self._at_start.followed_by(reading)
        self._at_start, self._start_seconds = Inside(), 0.0
        if answer is None:
            return None
        after, events = answer
        self._check_rows(len(events), "events")
        self._check_rows(len(after), "a state")
        for place, (row, event) in enumerate(zip(self._rows, events, strict=True)):
            self._check_event(event)
            row.events.append(Event({**event, **reading.counts}))
            row.seconds.append(seconds)
            if self._cuts:
                row.activations.append(reading.activations)
            if isinstance(after, MaskedTextState):
                self._take_places(row, after.tokens[place], after.masked_positions[place])
            else:
                self._take(row, after, place)
        return after

    def _take_places(self, row: RowState, new: tuple[int, ...], active: tuple[int, ...]) -> None:
        """Store the tokens that a step wrote at masked positions of a row, and check that it changed no others."""
        written = sorted(set(row.masked_positions) - set(active))
        stands = [new[place] if place in written else token for place, token in enumerate(row.text)]
        if not set(active) <= set(row.masked_positions) or list(new) != stands:
            raise FedsimError(
                f"'{self._method.name}' changed an unmasked position, or masked it again. A "
                "step may write only masked positions, with state.filled(...)."
            )
        row.text, row.masked_positions, row.tokens = new, active, list(new[row.emitted_count :])
        row.places.append(tuple(place - row.emitted_count for place in written))
        row.counts.append(len(written))
        limits = self._context.limits
        assert limits is not None, "an unmasker has limits"
        known = row.tokens[: active[0] - row.emitted_count] if active else row.tokens
        stop = next((place for place, token in enumerate(known) if token in limits.stop_tokens), None)
        if stop is not None:
            row.ending, row.tokens = "stop", row.tokens[: stop + 1]
        elif not active:
            row.ending = "length"
        if written:
            tokens = tuple(new[place] for place in written)
            self._pieces.append(Piece(row.number, tokens, places=row.places[-1]))

    def _take(self, row: RowState, state: TextState | Sampling, place: int) -> None:
        """Store a row's new tokens or sample from the state."""
        if isinstance(state, Sampling):
            row.x = state.x[place].clone()
            row.counts.append(0)
            return
        limits = self._context.limits
        assert limits is not None, "who writes has limits"
        new = state.tokens[place][row.emitted_count :]
        ended = cut(new, len(row.tokens), row.emitted_count, limits)
        row.emitted_count = len(state.tokens[place])
        row.counts.append(len(ended.tokens))
        row.tokens += ended.tokens
        row.ending = ended.ending
        if ended.tokens:
            self._pieces.append(Piece(row.number, ended.tokens))

    def _end_finished(self, state: State) -> None:
        finished = self._method.are_finished(state)
        self._check_rows(len(finished), "answers whether rows are finished")
        for row, is_finished in zip(self._rows, finished, strict=True):
            if is_finished and row.ending is None:
                row.ending = "finished"

    def _remove_ended(self, answers: WhatT) -> WhatT:
        """Emit the results of ended rows, and return the state or condition of the remaining ones."""
        places = [place for place, row in enumerate(self._rows) if row.ending is None]
        if len(places) == len(self._rows):
            return answers
        for row in self._rows:
            if row.ending is not None:
                self._pieces.append(Piece(row.number, (), row.generate(row.ending)))
        self._rows = [self._rows[place] for place in places]
        return answers.keep(places)

    def _hand_out(self) -> Iterator[Piece]:
        pieces, self._pieces = self._pieces, []
        yield from pieces

    def _ask(self, act: Callable[[nn.Module, WhatT, GenerationContext], FoundT], answers: WhatT) -> FoundT | None:
        """Call `start` or `step`; rows named by `GenerationError` fail, and the call is repeated for the others."""
        while self._rows:
            generators = tuple(row.generator for row in self._rows)
            states = [generator.get_state() for generator in generators]
            try:
                with evaluation_mode(self._modules):
                    return act(self._model, answers, replace(self._context, generators=generators))
            except GenerationError as error:
                for source, state in zip(generators, states, strict=True):
                    source.set_state(state)
                for place in error.rows or range(len(self._rows)):
                    self._rows[place].ending, self._rows[place].reason = "failed", str(error)
                answers = self._remove_ended(answers)
        return None

    def _check_rows(self, count: int, label: str) -> None:
        if count != len(self._rows):
            raise FedsimError(
                f"'{self._method.name}' returned {label} of {count} rows, expected "
                f"{len(self._rows)}, the rows of its input state."
            )

    def _check_event(self, event: Event) -> None:
        if set(event) == self._method.counts:
            return
        raise FedsimError(
            f"an event of '{self._method.name}' counts {', '.join(event) or 'nothing'}, but its class says counts = "
            f"{{{', '.join(sorted(self._method.counts))}}}. Make the two agree."
        )


class Ended(NamedTuple):
    """Tokens of a step that belong to the text, and the criterion that ended the text, or None."""

    tokens: tuple[int, ...]
    ending: Ending | None


def cut(new: Sequence[int], written: int, length: int, limits: Limits) -> Ended:
    """Return the new tokens up to the first stopping criterion; a stop token is included as the last token.

    Args:
        new: tokens of a step.
        written: number of generated tokens before the step.
        length: number of tokens of prompt and text before the step.
        limits: stopping criteria.
    """
    left = limits.max_new_tokens - written
    room = left if limits.context is None else min(left, limits.context - length)
    counted = tuple(new[:room])
    stop = next((place for place, token in enumerate(counted) if token in limits.stop_tokens), None)
    if stop is not None:
        return Ended(counted[: stop + 1], "stop")
    if len(counted) < room:
        return Ended(counted, None)
    return Ended(counted, "length" if room == left else "context")
