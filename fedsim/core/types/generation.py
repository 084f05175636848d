"""What a generation is asked, what it leaves behind, and what an observer of it sees."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types.basics import Config

Ending = Literal["finished", "stop", "length", "context", "failed"]  # by method, stop token, either limit, or a reason


TraceView = Literal["outputs", "counts", "work", "timing", "activations"]  # what an observer of a generation sees


_NAME = re.compile(r"[a-z][\w.]*", re.ASCII)


class Limits(Config):
    """When the driver ends a text."""

    max_new_tokens: int = Field(ge=0, description="tokens behind the prompt, at most")
    stop_tokens: frozenset[int] = Field(default=frozenset(), description="each ends the text, and is its last token")
    context: int | None = Field(default=None, ge=1, description="tokens of prompt and text that the model can read")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Event(Mapping[str, int]):
    """What one step of a generation did, in counts by name, sorted: ``Event(accepted=2, layers=30)``.

    Counts follow from weights, condition and seed alone, so they are integers; seconds have no place here. A step
    counts what a row alone would have needed, whatever stands beside it. One name means the same for every method:

    - `layers`: how often a layer ran, each once a pass however many tokens the pass reads, those of a draft included.
      A full pass is as many as the model has. The parts in which a prompt of over 512 tokens is read are one pass; the
      single token that a start reads to learn how many tokens a model knows is none.
    - `rows`: texts that went through the whole model; each is a full pass.
    - `positions`: places of texts that went through the layers of a model that fills in.
    - `scored`: hidden states that the output layer turned into scores.
    - `proposed`: tokens that were drafted or tried. `accepted`: those of them that stand in the text, so neither the
      token that a model adds by itself nor one behind the text's end.
    - `evaluations` of a denoiser, `calls` of a constraint, `trials`, `unmasked` places.

    Raises:
        FedsimError: a count is no integer from 0, or its name no name.
    """

    _entries: tuple[tuple[str, int], ...]

    def __init__(self, counts: Mapping[str, int] | None = None, /, **more: int) -> None:
        entries = tuple(sorted({**(counts or {}), **more}.items()))
        for name, count in entries:
            if not _NAME.fullmatch(name):
                raise FedsimError(f"an event has no name '{name}': use small letters, digits, '_' and '.'.")
            if type(count) is not int or count < 0:
                raise FedsimError(f"an event counts '{name}' as {count!r}, expected an int from 0.")
        object.__setattr__(self, "_entries", entries)

    def __getitem__(self, name: str) -> int:
        return dict(self._entries)[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(self._entries)

    def __repr__(self) -> str:
        return f"Event({', '.join(f'{name}={count}' for name, count in self._entries)})"


@dataclass(frozen=True)
class Trace:
    """The steps of one generation, without seconds: the same bytes for the same seed.

    Attributes:
        tokens: how many tokens each step added to the text; the driver counts them.
        events: what else each step did; the method counts it, and the driver what token reducers kept.
        places: of a text that was filled in, the places that each step wrote, counted from 0 behind the prompt; else
            none.
    """

    tokens: tuple[int, ...] = ()
    events: tuple[Event, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()

    def series(self) -> dict[str, tuple[int, ...]]:
        """Return the counts of all steps by name; 0 where a step has none of that name."""
        names = sorted({name for event in self.events for name in event})
        return {name: tuple(event.get(name, 0) for event in self.events) for name in names}


Activations = tuple[tuple[str, Tensor], ...]  # outputs of modules by name, in call order


@dataclass(frozen=True)
class Generated:
    """What one generation came to.

    Attributes:
        trace: its steps.
        ending: what ended it.
        tokens: the text behind the prompt; a stop token is its last one. Where filling in failed, places that are
            still masked hold the mask token.
        x: what a sampler made; None of a text, and where it failed before the first step.
        reason: why it failed, in a sentence; what was generated before stands in `tokens` or `x`.
        seconds: of each step on this machine. Rows of one batch share their steps, so each has all of the time.
        activations: what the asked modules returned in each step.
    """

    trace: Trace
    ending: Ending
    tokens: tuple[int, ...] = ()
    x: Tensor | None = None
    reason: str = ""
    seconds: tuple[float, ...] = field(default=(), compare=False)
    activations: tuple[Activations, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class TraceObservation:
    """Everything an observer of a generation gets. Built only by `fedsim.threat.observe_trace.observe_trace`.

    No path of references leads from here to the prompt, to the model, or to what no view shows.

    Attributes:
        views: what it was built under, sorted.
        output: view `outputs`, the text's tokens or what a sampler made.
        places: the same view, of a text that was filled in: the places that each step wrote.
        counts: view `counts`, tokens of each step that sent any.
        work: view `work`, the counts of every step by name.
        seconds: view `timing`, of every step.
        activations: view `activations`, what crossed between layers in every step.
    """

    views: tuple[TraceView, ...]
    output: tuple[int, ...] | Tensor | None = None
    counts: tuple[int, ...] | None = None
    work: Mapping[str, tuple[int, ...]] | None = None
    seconds: tuple[float, ...] | None = None
    activations: tuple[Activations, ...] | None = None
    places: tuple[tuple[int, ...], ...] | None = None
