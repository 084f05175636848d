"""Filling in block by block: what is proposed at each masked place, how sure the model is, and which ones stay."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Condition, GenerationContext, Unmasker, Unmasking
from fedsim.core.types import Config, Event

_EVENTS = frozenset({"unmasked", "masked", "positions"})


class ProposalConfig(Config):
    """Settings of what is proposed at a masked place, and of how sure the model is."""

    temperature: float = Field(default=0.0, ge=0, description="T of the draws; at 0 the likeliest token is proposed")
    confidence: Literal["drawn", "max", "margin", "entropy", "random"] = Field(
        default="drawn",
        description="how sure the model is: the probability of the proposed token, or of the likeliest one; the two "
        "likeliest apart; the negative entropy; random order. At T above 0 all but `drawn` draw from the model's law",
    )


class BlockConfig(ProposalConfig):
    """Settings of filling in block by block."""

    block: int | None = Field(
        default=None, ge=1, description="places of a block; blocks are filled in from left to right. absent: one block"
    )


BlockConfigT = TypeVar("BlockConfigT", bound=BlockConfig)
UnmaskingT = TypeVar("UnmaskingT", bound=Unmasking)


class Proposed(NamedTuple):
    """What the model proposes at places of a row, and how sure it is, in double precision."""

    places: tuple[int, ...]
    tokens: Tensor
    confidence: Tensor

    def taken(self, chosen: Sequence[int]) -> dict[int, int]:
        """Return the tokens of those that are chosen, by their numbers, at their places."""
        return {self.places[number]: int(self.tokens[number]) for number in chosen}


def propose(scores: Tensor, places: tuple[int, ...], config: ProposalConfig, generator: torch.Generator) -> Proposed:
    """Propose a token at each place; of equal scores the token numbered first.

    Args:
        scores: of each of the places, (n, V).
        places: which are masked and may be written.
        config: temperature and confidence.
        generator: the row's.
    """
    tokens = noised(scores, config.temperature, generator).argmax(-1)
    return Proposed(places, tokens, confidences(scores.double().softmax(-1), tokens, config, generator))


def noised(scores: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return scores in double precision whose largest one is a draw at a temperature."""
    doubles = scores.double()
    if temperature == 0:
        return doubles.clone()
    uniform = torch.rand(doubles.shape, generator=generator, dtype=torch.double).clamp_min(
        torch.finfo(doubles.dtype).tiny
    )
    return doubles - temperature * (-uniform.log()).log()


def confidences(odds: Tensor, tokens: Tensor, config: ProposalConfig, generator: torch.Generator) -> Tensor:
    """Return how sure the model is at each place, of odds (n, V) without the noise of a draw."""
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
    """Return the numbers of the surest places, of equal ones the first."""
    return confidence.sort(descending=True, stable=True).indices[:count].tolist()


def schedule(masked: int, steps: int) -> tuple[int, ...]:
    """Return how many places each step writes, without steps that would write none."""
    return tuple(masked // steps + (step < masked % steps) for step in range(min(masked, steps)))


def block_places(state: Unmasking, row: int, block: int | None) -> tuple[int, ...]:
    """Return the masked places of a row's first block that has any."""
    begin, masked = state.begins[row], state.masked[row]
    if block is None:
        return masked
    last = begin + block * ((masked[0] - begin) // block + 1)
    return tuple(place for place in masked if place < last)


def steps_of_block(state: Unmasking, row: int, block: int | None, steps: int | None) -> int | None:
    """Return the steps of each block of a row; None where no number is given for the whole answer.

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


def check_blocks(state: Unmasking, block: int | None) -> None:
    """Check that blocks fit the answers.

    Raises:
        FedsimError: they do not.
    """
    lengths = {len(text) - begin for text, begin in zip(state.tokens, state.begins, strict=True)}
    for length in lengths if block else ():
        if length % (block or 1):
            raise FedsimError(
                f"block is {block}, and an answer has {length} places: expected a divisor. Change one of them."
            )


class InBlocks(Unmasker[BlockConfigT, UnmaskingT], Generic[BlockConfigT, UnmaskingT]):
    """Fills in answers that blocks divide."""

    def begin(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Unmasking:
        """Return the prompts with masked places behind them.

        Raises:
            FedsimError: the block does not divide an answer, the model has no mask token, or answers of another length
                are given.
            CannotContinue: the model cannot read some prompts with their answers.
        """
        begun = super().begin(model, condition, context)
        check_blocks(begun, self.config.block)
        return begun


class Blockwise(InBlocks[BlockConfigT, UnmaskingT], Generic[BlockConfigT, UnmaskingT]):
    """Fills in a block with one pass a step; derive from it and say which proposals stay."""

    counts: ClassVar[frozenset[str]] = _EVENTS

    def step(self, model: nn.Module, state: UnmaskingT, context: GenerationContext) -> tuple[UnmaskingT, list[Event]]:
        """Write some masked places of each row's block.

        Raises:
            CannotContinue: scores of some rows are no numbers.
        """
        state, proposed = self.proposals(self.place_scores(model, state), state, context.generators)
        new = [proposal.taken(self.choose(proposal.confidence, state, row)) for row, proposal in enumerate(proposed)]
        return self.after(state.filled(new)), events(state, new)

    def proposals(
        self, scores: Sequence[Tensor], state: UnmaskingT, generators: Sequence[torch.Generator]
    ) -> tuple[UnmaskingT, list[Proposed]]:
        """Return the state with what it remembers of this step, and what is proposed in each row's block."""
        proposed: list[Proposed] = []
        for row, (score, generator) in enumerate(zip(scores, generators, strict=True)):
            places = block_places(state, row, self.config.block)
            proposed.append(propose(score[list(places)], places, self.config, generator))
        return state, proposed

    @abstractmethod
    def choose(self, confidence: Tensor, state: UnmaskingT, row: int) -> list[int]:
        """Return the numbers of the proposals of a row that stay, at least one."""

    def after(self, state: UnmaskingT) -> UnmaskingT:
        """Return the state as the next step needs it."""
        return state


class Stateless(Blockwise[BlockConfigT, Unmasking], Generic[BlockConfigT]):
    """Fills in a block, and remembers nothing but the texts."""

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Unmasking:
        """Return the prompts with masked places behind them.

        Raises:
            FedsimError: the block does not divide an answer.
            CannotContinue: the model cannot read some prompts.
        """
        return self.begin(model, condition, context)


def events(state: Unmasking, new: Sequence[dict[int, int]]) -> list[Event]:
    """Count what a step with one whole pass did to each row."""
    return [
        Event(unmasked=len(filled), masked=len(masked), positions=len(tokens))
        for filled, masked, tokens in zip(new, state.masked, state.tokens, strict=True)
    ]
