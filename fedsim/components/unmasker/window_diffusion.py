"""window-diffusion: between full passes, computes only the leftmost masked positions, with a cached attention window.

Idea: the next written positions are near the left end of the masked range, distant masks have little influence, and
    keys and values of written tokens hardly change.
Equation: every R-th step is a full pass that fills the cache. The others compute {masked, rank < A} and the tokens
    written since, which attend to {masked, rank < W} and all positions written at the start of the phase; rank counts
    masked positions.
Assumes: a model that fills masked positions and can compute a subset of positions. No training.
Leaks: the positions computed per step and the refreshes reveal the answer's length and how far it is written from the
    left.
Fails: if the most confident positions are far right, or distant written context matters; worse for small windows.
Source: Window-Diffusion, 2026, arXiv 2601.20332, with the settings of its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, final, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.unmasker._blocks import ProposalConfig, propose, schedule, surest
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import (
    GenerationContext,
    GenerationInputs,
    MaskedTextState,
    Unmasker,
    check_place_scores,
    mask_token_of,
)
from fedsim.core.nets.masked_positions import exclude_mask_token, scoring_places
from fedsim.core.registry import component
from fedsim.core.types import Event


class WindowDiffusionConfig(ProposalConfig):
    """Settings of Window-Diffusion."""

    window: int = Field(default=64, ge=1, description="W, masked places that are seen between refreshes")
    active: int = Field(default=16, ge=1, description="A, masked places that are computed; at most W")
    refresh: int = Field(default=32, ge=1, description="R, steps between full passes; 1: every step is a full pass")
    steps: int | None = Field(default=None, ge=1, description="steps for the answer; unset: a token per step")
    keeps_refreshed: bool = Field(
        default=False, description="whether tokens written in a full pass are computed until the next, not once"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.active > self.window:
            raise ValueError(f"active is {self.active} and window {self.window}: expected at most as many.")
        return self


@runtime_checkable
class _Readable(Protocol):
    """A model that can compute scores at a subset of positions."""

    def read(self, tokens: Tensor, positions: Tensor, store: Any) -> Tensor: ...


class Phase(NamedTuple):
    """Cached data of a row between two full passes.

    Attributes:
        keys: keys of each layer at all positions, (1, H, T, F).
        values: values, likewise.
        attended_positions: positions that are attended to.
        again: written positions that the next step recomputes.
        offset: number of steps since the full pass.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    attended_positions: tuple[int, ...]
    again: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Windowed(MaskedTextState):
    """Texts, the phase of each row (None before the first step), and the number of positions each step should write."""

    phase: tuple[Phase | None, ...]
    due: tuple[tuple[int, ...], ...]


class Cache:
    """Stores keys and values of computed positions, and returns keys and values of attended positions."""

    def __init__(self, phase: Phase | None, positions: Sequence[int]) -> None:
        self._phase, self._at = phase, torch.tensor(positions)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store the keys and values of a layer, in order of layers.

        The transformers package passes additional arguments.
        """
        if self._phase is None:
            self.keys.append(keys)
            self.values.append(values)
            return keys, values
        seen = torch.tensor(self._phase.attended_positions)
        self.keys.append(self._phase.keys[layer].index_copy(2, self._at, keys))
        self.values.append(self._phase.values[layer].index_copy(2, self._at, values))
        return self.keys[layer][:, :, seen], self.values[layer][:, :, seen]


@final
@component(
    "window-diffusion",
    summary="unmasker: cached passes over a window of masked places",
    tier="research",
    paper="2601.20332",
    fidelity="reproduction",
    paper_steps=(
        ("full passes fill the cache", "WindowDiffusion.step"),
        ("near masked places are computed, more are seen", "WindowDiffusion.select_computed"),
        ("cached states serve the others", "Cache.update"),
    ),
)
class WindowDiffusion(Unmasker[WindowDiffusionConfig, Windowed]):
    """Writes the most confident positions, in most steps from a pass over a few positions."""

    counts: ClassVar[frozenset[str]] = frozenset({"unmasked", "masked", "positions", "pairs", "refreshed"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Windowed:
        """Return the prompts followed by masked positions, with an empty cache.

        Raises:
            FedsimError: the model cannot compute a subset of positions.
            GenerationError: the model cannot read some prompts.
        """
        begun = self.begin(model, condition, context)
        if not isinstance(model, _Readable):
            raise FedsimError(
                f"the model {type(model).__name__} cannot be evaluated at chosen positions only, as "
                "window-diffusion needs. Use a model with a method read(tokens, positions, store), such as "
                "'tiny-llada'."
            )
        due = tuple(
            schedule(len(places), self.config.steps or max(1, len(places))) for places in begun.masked_positions
        )
        return Windowed(begun.tokens, begun.begins, begun.masked_positions, (None,) * len(begun), due)

    def step(self, model: nn.Module, state: Windowed, context: GenerationContext) -> tuple[Windowed, list[Event]]:
        """Write the most confident positions of each row, from a full pass or a pass over its active positions.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        read = [self.read(model, state, row) for row in range(len(state))]
        check_place_scores([scores for scores, _, _ in read])
        new: list[dict[int, int]] = []
        phases: list[Phase] = []
        events: list[Event] = []
        for row, (scores, positions, cache) in enumerate(read):
            masked = set(state.masked_positions[row])
            open_ones = [number for number, place in enumerate(positions) if place in masked]
            places = tuple(positions[number] for number in open_ones)
            proposed = propose(scores[open_ones], places, self.config, context.generators[row])
            taken = proposed.select_tokens(surest(proposed.confidence, state.due[row][0]))
            new.append(taken)
            phases.append(self._phase(state, row, taken, cache))
            events.append(self._event(state, row, len(taken), len(positions)))
        due = tuple(_carry_over(row_due, len(taken)) for row_due, taken in zip(state.due, new, strict=True))
        return replace(state.write_tokens(new), phase=tuple(phases), due=due), events

    def read(self, model: nn.Module, state: Windowed, row: int) -> tuple[Tensor, tuple[int, ...], Cache]:
        """Return the scores at the positions that a row's step computes, these positions, and the updated cache."""
        phase, tokens = self._open_phase(state, row), state.tokens[row]
        positions = tuple(range(len(tokens))) if phase is None else self.select_computed(model, state, row)
        cache = Cache(phase, positions)
        assert isinstance(model, _Readable), "the start has checked it"
        scores = model.read(torch.tensor([[tokens[place] for place in positions]]), torch.tensor([positions]), cache)
        return exclude_mask_token(scores[0], mask_token_of(model)), positions, cache

    def select_computed(self, model: nn.Module, state: Windowed, row: int) -> tuple[int, ...]:
        """Return the positions that a step between full passes computes, including positions needed to score others."""
        phase = state.phase[row]
        assert phase is not None, "a full pass comes first"
        active = state.masked_positions[row][: self.config.active]
        return tuple(sorted({*active, *scoring_places(model, active), *phase.again}))

    def _phase(self, state: Windowed, row: int, taken: dict[int, int], cache: Cache) -> Phase:
        """Return the phase after a step that wrote `taken`."""
        left = [place for place in state.masked_positions[row] if place not in taken]
        before, keys, values = self._open_phase(state, row), tuple(cache.keys), tuple(cache.values)
        if before is None:
            written = set(range(len(state.tokens[row]))) - set(left)
            seen = tuple(sorted({*left[: self.config.window], *written}))
            return Phase(keys, values, seen, tuple(taken), 1)
        first = before.offset == 1 and not self.config.keeps_refreshed
        repeated = tuple(taken) if first else (*before.again, *taken)
        # A position outside the window may become active if more positions were written than the window has left.
        seen = tuple(sorted({*before.attended_positions, *left[: self.config.active]}))
        return Phase(keys, values, seen, repeated, before.offset + 1)

    def _open_phase(self, state: Windowed, row: int) -> Phase | None:
        """Return the phase of a row's next step; None for a full pass."""
        phase = state.phase[row]
        return None if phase is None or phase.offset >= self.config.refresh else phase

    def _event(self, state: Windowed, row: int, written: int, computed: int) -> Event:
        phase = self._open_phase(state, row)
        seen = len(state.tokens[row]) if phase is None else len(phase.attended_positions)
        return Event(
            unmasked=written,
            masked=len(state.masked_positions[row]),
            positions=computed,
            pairs=computed * seen,
            refreshed=int(phase is None),
        )


def _carry_over(due: tuple[int, ...], written: int) -> tuple[int, ...]:
    """Return the remaining schedule after a step; unwritten positions are added to the next step."""
    missing, left = due[0] - written, due[1:]
    return (left[0] + missing, *left[1:]) if left else (missing,) if missing else ()
