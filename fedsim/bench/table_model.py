"""The exact model of a finite law: what stands at a masked place, given what stands at the others.

With it as the model a decoder's errors are the decoder's alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TableModel(nn.Module):
    """Tokens (B, T) to log-probabilities (B, T, V) of the token at each place of the answer; those of prompts are 0.

    Answers that agree with what is written share their weight; where none does, each place has the tokens that any
    answer has there, all alike likely.

    Args:
        answers: of one length G; different prompts need different models. The last G tokens of a text are its answer.
        vocabulary: number of tokens; the mask token is the next one.
        weights: of each answer, up to a factor; absent: all alike.

    Attributes:
        mask_token: stands at masked places.
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
