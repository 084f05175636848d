"""credit-decoding: adds a bonus to tokens that were the most likely in many steps, so they pass the threshold earlier.

Credit is earned by the model's own most likely token, before any bonus, so it does not reinforce itself; no event shows
it. `fedsim bench parallel --model lists --operation sort --decoder credit-decoding --set threshold=0.9` measures it.
The number of steps leaks more about a known text than under a threshold alone.

Idea: the final token is often the most likely one long before it reaches the threshold; the steps between are
    redundant.
Equation: C_iv <- beta C_iv, then C_iv += p_iv^gamma for v = argmax p_i; q = softmax(z + alpha log(1 + C)); write i if
    max_v q_iv >= tau, and at least the most confident. Credit starts at 0 in each block. Tuning-free: gamma = 1, and
    alpha = beta = the share of the block that is written.
Assumes: a model that fills masked positions. No training.
Leaks: memorised text needs even fewer steps; credit contains rejected tokens, and is deleted with the text.
Fails: if equal choices alternate, no credit accumulates; a wrong token that stays on top is written earlier too.
Source: "CreditDecoding", 2025, arXiv 2510.06133, with the constants of its final version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.unmasker._blocks import (
    BlockConfig,
    Blockwise,
    Proposed,
    block_places,
    propose,
    surest,
)
from fedsim.core.hooks import GenerationContext, GenerationInputs, MaskedTextState
from fedsim.core.registry import component


class CreditDecodingConfig(BlockConfig):
    """Settings of CreditDecoding."""

    threshold: float = Field(default=0.95, ge=0, description="tau, of the confidence with its bonus")
    alpha: float = Field(default=0.65, ge=0, description="weight of the bonus")
    beta: float = Field(default=0.7, ge=0, lt=1, description="share of the credit that a step keeps; 0: none")
    gamma: float = Field(default=0.2, ge=0, description="power of the probability that is earned")
    form: Literal["fixed", "tuning-free"] = Field(
        default="fixed", description="constants from the settings, or derived from the block's unmasked share"
    )
    earners: Literal["likeliest", "all"] = Field(
        default="likeliest", description="which tokens earn in a step; all: an ablation of the paper"
    )


@dataclass(frozen=True)
class Credited(MaskedTextState):
    """Texts, and the credit of their open blocks.

    Attributes:
        credit: per row, positions of the text by tokens, (T, V), 0 outside the block; None before the first step.
        block: per row, the first position of the block that the credit belongs to; -1 before the first step.
    """

    credit: tuple[Tensor | None, ...]
    block: tuple[int, ...]


@final
@component(
    "credit-decoding",
    summary="unmasker: a bonus for tokens that stay the likeliest",
    tier="research",
    paper="2510.06133",
    fidelity="reproduction",
    paper_steps=(
        ("credit decays and grows at the likeliest token", "CreditDecoding.update_credit"),
        ("bonus on the scores", "CreditDecoding.add_bonus"),
        ("settings that follow the block's written share", "CreditDecoding.proposals"),
    ),
)
class CreditDecoding(Blockwise[CreditDecodingConfig, Credited]):
    """Writes the positions of a block above a threshold, by probabilities that include earlier steps."""

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Credited:
        """Return the prompts followed by masked positions, without credit.

        Raises:
            FedsimError: the block does not divide an answer.
            GenerationError: the model cannot read some prompts.
        """
        begun = self.begin(model, condition, context)
        rows = len(begun)
        return Credited(begun.tokens, begun.begins, begun.masked_positions, (None,) * rows, (-1,) * rows)

    def proposals(
        self, scores: Sequence[Tensor], state: Credited, generators: Sequence[torch.Generator]
    ) -> tuple[Credited, list[Proposed]]:
        """Return the state with this step's credit, and the proposals under the bonus."""
        proposed: list[Proposed] = []
        credits: list[Tensor] = []
        blocks: list[int] = []
        for row, (score, generator) in enumerate(zip(scores, generators, strict=True)):
            places, block = block_places(state, row, self.config.block), self._block(state, row)
            old = state.credit[row]
            if old is None or block != state.block[row]:
                old = torch.zeros_like(score, dtype=torch.float32)
            written = self._measure_written_share(state, row, places)
            credit = self.update_credit(old, score, places, written)
            credits.append(credit)
            blocks.append(block)
            fused = self.add_bonus(score, credit, written)[list(places)]
            proposed.append(propose(fused, places, self.config, generator))
        return replace(state, credit=tuple(credits), block=tuple(blocks)), proposed

    def choose(self, confidence: Tensor, state: Credited, row: int) -> list[int]:
        """Return the positions above the threshold, else the most confident position."""
        confident = (confidence >= self.config.threshold).nonzero().flatten().tolist()
        return confident or surest(confidence, 1)

    def update_credit(self, credit: Tensor, scores: Tensor, places: Sequence[int], written: float) -> Tensor:
        """Return the credit (T, V) after a step: decayed, plus the step's gains of the most likely tokens.

        Args:
            credit: credit before the step.
            scores: scores of the model without bonus, (T, V).
            places: masked positions of the block.
            written: share of the block that is written.
        """
        is_free = self.config.form == "tuning-free"
        odds = scores[list(places)].float().softmax(-1) ** (1.0 if is_free else self.config.gamma)
        if self.config.earners == "likeliest":
            odds = odds * nn.functional.one_hot(scores[list(places)].argmax(-1), odds.shape[-1])
        after = torch.zeros_like(credit)
        after[list(places)] = (written if is_free else self.config.beta) * credit[list(places)] + odds
        return after

    def add_bonus(self, scores: Tensor, credit: Tensor, written: float) -> Tensor:
        """Return scores with the bonus, (T, V)."""
        alpha = written if self.config.form == "tuning-free" else self.config.alpha
        return scores.double() + alpha * credit.log1p()

    def _block(self, state: Credited, row: int) -> int:
        begin, size = state.begins[row], self.config.block or len(state.tokens[row])
        return begin + (state.masked_positions[row][0] - begin) // size * size

    def _measure_written_share(self, state: Credited, row: int, places: Sequence[int]) -> float:
        length = len(state.tokens[row]) - state.begins[row]
        return 1 - len(places) / (self.config.block or length)
