"""Blockwise unmasking with revisable guesses, which are written only at the end of a block."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import nn

from fedsim.components.unmasker._blocks import BlockConfig, InBlocks, Proposed, block_places, propose, steps_of_block
from fedsim.core.hooks import GenerationContext, GenerationInputs, MaskedTextState
from fedsim.core.types import Event


class RevisingConfig(BlockConfig):
    """Settings of unmasking with revisable guesses."""

    steps: int | None = Field(
        default=None, ge=1, description="steps for the whole answer, shared by its blocks; absent: as many as places"
    )


RevisingConfigT = TypeVar("RevisingConfigT", bound=RevisingConfig)


class Guesses(NamedTuple):
    """Tokens shown to the model at positions of a block.

    Attributes:
        tokens: by position; all other positions are masked.
        confidence: the model's confidence in each token when it was proposed, by position.
        step_count: number of steps in this block.
    """

    tokens: Mapping[int, int] = {}
    confidence: Mapping[int, float] = {}
    step_count: int = 0

    def of(self, places: Sequence[int]) -> Guesses:
        """Return the guesses at some positions, with the step count increased."""
        tokens = {place: self.tokens[place] for place in places}
        return Guesses(tokens, {place: self.confidence[place] for place in places}, self.step_count + 1)

    def add_proposals(self, proposed: Proposed) -> Guesses:
        """Return the guesses together with all proposals."""
        tokens = dict(zip(proposed.places, proposed.tokens.tolist(), strict=True))
        confidence = dict(zip(proposed.places, proposed.confidence.tolist(), strict=True))
        return Guesses({**self.tokens, **tokens}, {**self.confidence, **confidence}, self.step_count)


@dataclass(frozen=True)
class Revised(MaskedTextState):
    """Texts, and the guesses in each row's block, whose positions count as masked until the block ends."""

    guesses: tuple[Guesses, ...]


class Revising(InBlocks[RevisingConfigT, Revised], Generic[RevisingConfigT]):
    """Base class: unmasks a block with a pass per step; subclasses select the guesses to keep."""

    counts: ClassVar[frozenset[str]] = frozenset({"unmasked", "masked", "positions", "remasked"})

    @abstractmethod
    def revise(self, before: Guesses, proposed: Proposed, steps: int, generator: torch.Generator) -> Guesses:
        """Return the guesses after a step that is not the last of a block.

        Args:
            before: tokens shown to the model.
            proposed: proposals at all other positions of the block.
            steps: number of steps of the block.
            generator: random source of the row.
        """

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Revised:
        """Return the prompts followed by masked positions.

        Raises:
            FedsimError: the block does not divide an answer, or the number of blocks does not divide the steps.
            GenerationError: the model cannot read some prompts.
        """
        begun = self.begin(model, condition, context)
        for row in range(len(begun)):
            steps_of_block(begun, row, self.config.block, self.config.steps)
        return Revised(begun.tokens, begun.begins, begun.masked_positions, (Guesses(),) * len(begun))

    def step(self, model: nn.Module, state: Revised, context: GenerationContext) -> tuple[Revised, list[Event]]:
        """Revise the guesses of each row, and write them at the end of its block.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        shown = [
            tuple(guesses.tokens.get(place, token) for place, token in enumerate(text))
            for text, guesses in zip(state.tokens, state.guesses, strict=True)
        ]
        scores = self.place_scores(model, replace(state, tokens=tuple(shown)))
        new, after, events = list[dict[int, int]](), list[Guesses](), list[Event]()
        for row, (before, generator) in enumerate(zip(state.guesses, context.generators, strict=True)):
            block = block_places(state, row, self.config.block)
            places = tuple(place for place in block if place not in before.tokens)
            proposed = propose(scores[row][list(places)], places, self.config, generator)
            steps = steps_of_block(state, row, self.config.block, self.config.steps) or len(block)
            is_last = before.step_count + 1 >= steps
            guesses = before.add_proposals(proposed) if is_last else self.revise(before, proposed, steps, generator)
            new.append(dict(guesses.tokens) if is_last else {})
            after.append(Guesses() if is_last else guesses)
            events.append(
                Event(
                    unmasked=len(new[-1]),
                    masked=len(state.masked_positions[row]),
                    positions=len(state.tokens[row]),
                    remasked=len(set(before.tokens) - set(guesses.tokens)),
                )
            )
        return replace(state.write_tokens(new), guesses=tuple(after)), events
