"""Exact masked language model of a finite distribution: conditional token probabilities at masked positions.

With it as the model, all errors are those of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TableModel(nn.Module):
    """Maps tokens (B, T) to log-probabilities (B, T, V) at each position of the answer; at prompt positions they are 0.

    Answers that agree with the written tokens share the probability by weight; if none agrees, all tokens that occur at
    a position in any answer are equally likely.

    Args:
        answers: all of one length G; different prompts need different models. The last G tokens of a text are its
            answer.
        vocabulary: number of tokens; the mask token is the next id.
        weights: weight of each answer, up to a factor; default all equal.

    Attributes:
        mask_token: token id at masked positions.
    """

    def __init__(
        self, answers: Sequence[Sequence[int]], vocabulary: int, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.mask_token = vocabulary
        self._answers = torch.tensor([list(answer) for answer in answers])
        self._one_hot = nn.functional.one_hot(self._answers, vocabulary).double()  # (N, G, V)
        self._weights = torch.tensor(weights or [1.0] * len(self._answers), dtype=torch.double)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return log-probabilities."""
        length = self._answers.shape[1]
        written = tokens[:, -length:]
        agrees = (written[:, None] == self._answers) | (written[:, None] == self.mask_token)  # (B, N, G)
        weights = agrees.all(-1) * self._weights  # (B, N)
        odds = torch.einsum("bn,ngv->bgv", weights, self._one_hot)
        seen = self._one_hot.amax(0)
        odds = torch.where(weights.sum(-1)[:, None, None] > 0, odds, seen)
        scores = torch.zeros(*tokens.shape, odds.shape[-1], dtype=torch.double)
        scores[:, -length:] = (odds / odds.sum(-1, keepdim=True)).log()
        return scores
