"""Types of generation: limits, trace, result, and the observer's view."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.settings import Config

Ending = Literal["finished", "stop", "length", "context", "failed"]  # method, stop token, limits, or error


TraceView = Literal["outputs", "counts", "work", "timing", "activations"]  # part of a generation that an observer sees


_NAME = re.compile(r"[a-z][\w.]*", re.ASCII)


class Limits(Config):
    """Stopping criteria of a text."""

    max_new_tokens: int = Field(ge=0, description="tokens behind the prompt, at most")
    stop_tokens: frozenset[int] = Field(default=frozenset(), description="each ends the text, and is its last token")
    context: int | None = Field(default=None, ge=1, description="tokens of prompt and text that the model can read")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Event(Mapping[str, int]):
    """Counts of one step of a generation, sorted by name: ``Event(accepted=2, layers=30)``.

    Counts depend on weights, condition and seed alone, so they are integers without seconds. A step counts what a row
    alone would have needed, independent of other rows. A name has the same meaning for all methods:

    - `layers`: how often a layer ran, once per pass regardless of the number of tokens, including draft passes. A full
        pass counts all layers of the model. The parts in which a prompt of over 512 tokens is processed are one pass;
        the single token with which `start` queries a model's vocabulary size does not count.
    - `rows`: texts that passed through the whole model; each is a full pass.
    - `positions`: positions of texts that passed through the layers of an unmasking model.
    - `scored`: hidden states that the output layer mapped to scores.
    - `proposed`: tokens that were drafted or tried. `accepted`: those in the text, excluding the token that a model
        adds by itself and any after the text's end.
    - `evaluations` of a denoiser, `calls` of a constraint, `trials`, `unmasked` positions.

    Raises:
        FedsimError: a count is no integer from 0, or a name is invalid.
    """

    _entries: tuple[tuple[str, int], ...]

    def __init__(self, counts: Mapping[str, int] | None = None, /, **more_counts: int) -> None:
        entries = tuple(sorted({**(counts or {}), **more_counts}.items()))
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
    """The steps of a generation, without seconds: identical for the same seed.

    Attributes:
        tokens: number of tokens that each step added to the text, counted by the driver.
        events: further counts of each step, by the method; the driver adds the tokens kept by reducers.
        places: for unmasking, the positions that each step wrote, from 0 after the prompt; else empty.
    """

    tokens: tuple[int, ...] = ()
    events: tuple[Event, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()

    def series(self) -> dict[str, tuple[int, ...]]:
        """Return the counts of all steps by name; 0 for steps without this name."""
        names = sorted({name for event in self.events for name in event})
        return {name: tuple(event.get(name, 0) for event in self.events) for name in names}


Activations = tuple[tuple[str, Tensor], ...]  # module outputs by name, in call order


@dataclass(frozen=True)
class Generated:
    """Result of a generation.

    Attributes:
        trace: its steps.
        ending: stopping criterion.
        tokens: the text after the prompt, including a stop token. If unmasking failed, remaining masked positions
            contain the mask token.
        x: a sampler's sample; None for text, or after a failure before the first step.
        reason: why it failed, as a sentence; the partial result is in `tokens` or `x`.
        seconds: time of each step on this machine. Rows of a batch share steps, so each row has the full time.
        activations: outputs of the recorded modules in each step.
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
    """Observation of a generation. Built only by `fedsim.questions.generation.observe.observe_trace`.

    It holds no reference to the prompt, to the model, or to data outside its views.

    Attributes:
        views: granted views, sorted.
        output: view `outputs`, the text's tokens or the sample.
        places: view `outputs`, for unmasking: the positions that each step wrote.
        counts: view `counts`, number of tokens of each step that sent any.
        work: view `work`, the counts of each step by name.
        seconds: view `timing`, time of each step.
        activations: view `activations`, the recorded activations of each step.
    """

    views: tuple[TraceView, ...]
    output: tuple[int, ...] | Tensor | None = None
    counts: tuple[int, ...] | None = None
    work: Mapping[str, tuple[int, ...]] | None = None
    seconds: tuple[float, ...] | None = None
    activations: tuple[Activations, ...] | None = None
    places: tuple[tuple[int, ...], ...] | None = None
