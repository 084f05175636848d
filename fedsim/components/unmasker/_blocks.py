"""Blockwise unmasking: proposals at masked positions, their confidence, and which of them are written."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext, GenerationInputs, MaskedTextState, Unmasker
from fedsim.core.types import Config, Event

_EVENTS = frozenset({"unmasked", "masked", "positions"})


class ProposalConfig(Config):
    """Settings of proposals at masked positions and of their confidence."""

    temperature: float = Field(default=0.0, ge=0, description="T of the draws; at 0 the likeliest token is proposed")
    confidence: Literal["drawn", "max", "margin", "entropy", "random"] = Field(
        default="drawn",
        description="confidence: the probability of the proposed token (drawn), or of the most likely "
        "token (max); the difference between the two most likely; the negative entropy; random "
        "order. At T above 0 all but `drawn` sample from the model's distribution at T = 1",
    )


class BlockConfig(ProposalConfig):
    """Settings of blockwise unmasking."""

    block: int | None = Field(
        default=None,
        ge=1,
        description="positions of a block; blocks are unmasked from left to right. unset: a single block",
    )


BlockConfigT = TypeVar("BlockConfigT", bound=BlockConfig)
UnmaskingT = TypeVar("UnmaskingT", bound=MaskedTextState)


class Proposed(NamedTuple):
    """Proposed tokens at positions of a row, and their confidence, in double precision."""

    places: tuple[int, ...]
    tokens: Tensor
    confidence: Tensor

    def select_tokens(self, chosen: Sequence[int]) -> dict[int, int]:
        """Return the chosen tokens, given by index, as a mapping from position to token."""
        return {self.places[number]: int(self.tokens[number]) for number in chosen}


def propose(scores: Tensor, places: tuple[int, ...], config: ProposalConfig, generator: torch.Generator) -> Proposed:
    """Propose a token at each position; ties go to the lower token id.

    Args:
        scores: scores of the positions, (n, V).
        places: masked positions that may be written.
        config: temperature and confidence.
        generator: random source of the row.
    """
    tokens = add_gumbel_noise(scores, config.temperature, generator).argmax(-1)
    return Proposed(places, tokens, confidences(scores.double().softmax(-1), tokens, config, generator))


def add_gumbel_noise(scores: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Add Gumbel noise to scores, in double precision, so that the argmax is a sample at the given temperature."""
    doubles = scores.double()
    if temperature == 0:
        return doubles.clone()
    uniform = torch.rand(doubles.shape, generator=generator, dtype=torch.double).clamp_min(
        torch.finfo(doubles.dtype).tiny
    )
    return doubles - temperature * (-uniform.log()).log()


def confidences(odds: Tensor, tokens: Tensor, config: ProposalConfig, generator: torch.Generator) -> Tensor:
    """Return the confidence at each position from probabilities (n, V) without Gumbel noise."""
    match config.confidence:
        case "drawn":
            return odds.gather(-1, tokens[:, None])[:, 0]
        case "max":
            return odds.amax(-1)
        case "margin":
            likeliest = odds.topk(2, -1).values
            return likeliest[:, 0] - likeliest[:, 1]
        case "entropy":
            return -torch.special.entr(odds).sum(-1)
        case "random":
            return torch.rand(len(odds), generator=generator, dtype=torch.double)


def surest(confidence: Tensor, count: int) -> list[int]:
    """Return the indices of the most confident positions; ties go to the lower index."""
    return confidence.sort(descending=True, stable=True).indices[:count].tolist()


def schedule(masked: int, steps: int) -> tuple[int, ...]:
    """Return the number of positions that each step writes, without steps that write none."""
    return tuple(masked // steps + (step < masked % steps) for step in range(min(masked, steps)))


def block_places(state: MaskedTextState, row: int, block: int | None) -> tuple[int, ...]:
    """Return the masked positions of a row's first block that has any."""
    begin, masked = state.begins[row], state.masked_positions[row]
    if block is None:
        return masked
    last = begin + block * ((masked[0] - begin) // block + 1)
    return tuple(place for place in masked if place < last)


def steps_of_block(state: MaskedTextState, row: int, block: int | None, steps: int | None) -> int | None:
    """Return the number of steps per block of a row; None if `steps` is None.

    Raises:
        FedsimError: the steps are no multiple of the number of blocks.
    """
    length = len(state.tokens[row]) - state.begins[row]
    blocks = length // (block or length)
    if steps is None:
        return None
    if steps % blocks:
        raise FedsimError(
            f"steps is {steps}, and the answer has {blocks} blocks: expected a multiple, so that each block has as "
            "many steps. Change steps or block."
        )
    return steps // blocks


def check_blocks(state: MaskedTextState, block: int | None) -> None:
    """Check that the block size divides the answer lengths.

    Raises:
        FedsimError: it does not.
    """
    lengths = {len(text) - begin for text, begin in zip(state.tokens, state.begins, strict=True)}
    for length in lengths if block else ():
        if length % (block or 1):
            raise FedsimError(
                f"block is {block}, and an answer has {length} positions: expected a divisor of it. Change "
                "either value."
            )


class InBlocks(Unmasker[BlockConfigT, UnmaskingT], Generic[BlockConfigT, UnmaskingT]):
    """Base class: unmasks answers with a length that is a multiple of the block size."""

    def begin(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> MaskedTextState:
        """Return the prompts followed by masked positions.

        Raises:
            FedsimError: the block does not divide an answer, the model has no mask token, or given answers differ in
                length.
            GenerationError: the model cannot read some prompts with their answers.
        """
        begun = super().begin(model, condition, context)
        check_blocks(begun, self.config.block)
        return begun


class Blockwise(InBlocks[BlockConfigT, UnmaskingT], Generic[BlockConfigT, UnmaskingT]):
    """Base class: unmasks a block with a pass per step; subclasses select the proposals to write."""

    counts: ClassVar[frozenset[str]] = _EVENTS

    def step(self, model: nn.Module, state: UnmaskingT, context: GenerationContext) -> tuple[UnmaskingT, list[Event]]:
        """Write some masked positions of each row's block.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        state, proposed = self.proposals(self.place_scores(model, state), state, context.generators)
        new = [
            proposal.select_tokens(self.choose(proposal.confidence, state, row))
            for row, proposal in enumerate(proposed)
        ]
        return self.next_state(state.write_tokens(new)), events(state, new)

    def proposals(
        self, scores: Sequence[Tensor], state: UnmaskingT, generators: Sequence[torch.Generator]
    ) -> tuple[UnmaskingT, list[Proposed]]:
        """Return the updated state and the proposals in each row's block."""
        proposed: list[Proposed] = []
        for row, (score, generator) in enumerate(zip(scores, generators, strict=True)):
            places = block_places(state, row, self.config.block)
            proposed.append(propose(score[list(places)], places, self.config, generator))
        return state, proposed

    @abstractmethod
    def choose(self, confidence: Tensor, state: UnmaskingT, row: int) -> list[int]:
        """Return the (nonempty) indices of a row's proposals to write."""

    def next_state(self, state: UnmaskingT) -> UnmaskingT:
        """Return the state for the next step."""
        return state


class Stateless(Blockwise[BlockConfigT, MaskedTextState], Generic[BlockConfigT]):
    """Base class: unmasks a block without state besides the texts."""

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> MaskedTextState:
        """Return the prompts followed by masked positions.

        Raises:
            FedsimError: the block does not divide an answer.
            GenerationError: the model cannot read some prompts.
        """
        return self.begin(model, condition, context)


def events(state: MaskedTextState, new: Sequence[dict[int, int]]) -> list[Event]:
    """Return the counts of a step with a full pass, for each row."""
    return [
        Event(unmasked=len(filled), masked=len(masked), positions=len(tokens))
        for filled, masked, tokens in zip(new, state.masked_positions, state.tokens, strict=True)
    ]
