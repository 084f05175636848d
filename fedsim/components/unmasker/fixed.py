"""fixed: writes a scheduled number of a block's most confident positions per step.

Idea: the number of steps determines speed and quality; tokens of a step are predicted independently of each other.
Equation: step s of a block with M masked positions and S steps writes M // S of them, the first M mod S steps one more:
    those with the highest confidence, by default that of the proposed token under softmax(z).
Assumes: a model that fills masked positions; steps that are a multiple of the number of blocks.
Leaks: the trace shows the schedule alone; the order of positions shows the user the model's confidence.
Fails: dependent positions become inconsistent if they are written in the same step.
Source: Nie et al. 2025, arXiv 2502.09992, low-confidence remasking in semi-autoregressive blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from pydantic import Field
from torch import Tensor, nn

from fedsim.components.unmasker._blocks import BlockConfig, Blockwise, block_places, schedule, steps_of_block, surest
from fedsim.core.hooks import GenerationContext, GenerationInputs, MaskedTextState
from fedsim.core.registry import component


class FixedConfig(BlockConfig):
    """Settings of a fixed schedule."""

    steps: int | None = Field(
        default=None, ge=1, description="steps for the whole answer, shared by its blocks; unset: a token per step"
    )


@dataclass(frozen=True)
class Scheduled(MaskedTextState):
    """Texts, and the number of positions that each remaining step of the block writes."""

    due: tuple[tuple[int, ...], ...]


@final
@component(
    "fixed",
    summary="unmasker: as many places a step as a schedule says",
    tier="baseline",
    paper="2502.09992",
    fidelity="reproduction",
    paper_steps=(
        ("masking and weighted loss of training", "fedsim.tasks.masked_diffusion.MaskedDiffusion"),
        ("places a step", "Fixed.choose"),
        ("blocks from left to right", "Fixed.choose"),
    ),
)
class Fixed(Blockwise[FixedConfig, Scheduled]):
    """Writes the most confident positions of a block by a schedule."""

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Scheduled:
        """Return the prompts followed by masked positions.

        Raises:
            FedsimError: the block does not divide an answer, or the number of blocks does not divide the steps.
            GenerationError: the model cannot read some prompts.
        """
        begun = self.begin(model, condition, context)
        state = Scheduled(begun.tokens, begun.begins, begun.masked_positions, ((),) * len(begun))
        for row in range(len(state)):
            steps_of_block(state, row, self.config.block, self.config.steps)
        return self.next_state(state)

    def choose(self, confidence: Tensor, state: Scheduled, row: int) -> list[int]:
        """Return the scheduled number of most confident positions."""
        return surest(confidence, state.due[row][0])

    def next_state(self, state: Scheduled) -> Scheduled:
        """Remove the finished step from the schedule, or start the schedule of a new block."""
        return replace(state, due=tuple(self._due(state, row) for row in range(len(state))))

    def _due(self, state: Scheduled, row: int) -> tuple[int, ...]:
        if not state.masked_positions[row]:
            return ()
        masked, due = len(block_places(state, row, self.config.block)), state.due[row][1:]
        if sum(due) == masked and due:
            return due
        return schedule(masked, steps_of_block(state, row, self.config.block, self.config.steps) or masked)
