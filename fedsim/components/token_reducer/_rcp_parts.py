"""Trained modules of rcp: token pruning, a summary of dropped tokens, and repair of the answer-predicting states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BOUND = 4.0  # bound of the logits, in units of the noise
_PLACE = 64  # size of a patch's learned embedding in the summary of a mask


class Pruner(nn.Module):
    """Maps visual states (B, n, D) to the logit of keeping each, (B, n): the model's own attention plus corrections.

    Args:
        width: D of the language model.
        inner: hidden size, a multiple of the number of heads.
        queries: number of learned queries that attend to the visual tokens.
        heads: number of attention heads.
    """

    def __init__(self, width: int, inner: int, queries: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.visual, self.question = nn.Linear(width, inner), nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner)
        self.queries = nn.Parameter(torch.randn(queries, inner) * inner**-0.5)
        self.asks, self.answers = nn.Linear(inner, inner), nn.Linear(inner, inner)
        self.weighs = nn.Linear(queries, 1)
        last = nn.Linear(inner, 1)
        self.token = nn.Sequential(nn.Linear(inner, inner), nn.LayerNorm(inner), nn.GELU(), last)
        self.bias = nn.Parameter(torch.tensor(2.0))
        nn.init.constant_(self.weighs.weight, 1 / queries)
        for parameter in (self.weighs.bias, last.weight, last.bias):
            nn.init.zeros_(parameter)

    def forward(self, visual: Tensor, attention: Tensor, alive: Tensor, question: Tensor) -> Tensor:
        """Return the logits.

        Args:
            visual: states before a layer.
            attention: the question's attention to each token in that layer, (B, n).
            alive: mask of remaining tokens, (B, n). Other tokens do not affect the logits of remaining tokens.
            question: mean state of the question, (B, D).
        """
        return baseline(attention, alive) + self._looks(visual, alive, question) + self._token(visual) + self.bias

    def _token(self, visual: Tensor) -> Tensor:
        return self.token(self.visual(visual))[..., 0]

    def _looks(self, visual: Tensor, alive: Tensor, question: Tensor) -> Tensor:
        """Return the attention of the learned queries to each token, combined over the queries."""
        queries = self.queries + self.norm(self.question(question))[:, None]
        asks, answers = self._split(self.asks(queries)), self._split(self.answers(self.visual(visual)))
        scores = asks @ answers.mT / asks.shape[-1] ** 0.5
        weights = scores.masked_fill(~alive[:, None, None], -1e9).softmax(-1).mean(1)  # (B, queries, n)
        return self.weighs(weights.mT)[..., 0]

    def _split(self, inner: Tensor) -> Tensor:
        return inner.unflatten(-1, (self._heads, -1)).transpose(1, 2)


def baseline(attention: Tensor, alive: Tensor) -> Tensor:
    """Return log attention minus its mean over the remaining tokens."""
    logs = attention.clamp_min(1e-6).log()
    return logs - (logs * alive).sum(1, keepdim=True) / alive.sum(1, keepdim=True).clamp_min(1)


def choose_tokens(logits: Tensor, temperature: float, noise: Tensor | float = 0.0) -> Tensor:
    """Return 0 or 1 for each token, with the gradient of sigmoid((logits + noise) / temperature).

    Logits are bounded first, which does not change their sign; unbounded logits would lose their gradient.
    """
    soft = ((_BOUND * (logits / _BOUND).tanh() + noise) / temperature).sigmoid()
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())  # noqa: PLR2004 - as likely kept as not


class Lost(nn.Module):
    """Summarises a layer's dropped tokens in a vector (B, size): mask of kept patches, and mean dropped state.

    Args:
        patches: number of patches of an image.
        width: hidden width of the language model.
        size: size of the vector.
    """

    def __init__(self, patches: int, width: int, size: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(patches, _PLACE) * _PLACE**-0.5)
        self.query = nn.Parameter(torch.randn(_PLACE) * _PLACE**-0.5)
        self.mask, self.states = nn.Linear(_PLACE, size), nn.Linear(width, size)

    def forward(self, kept: Tensor, visual: Tensor, gone: Tensor) -> Tensor:
        """Return the summary.

        Args:
            kept: mask of remaining patches of the image, (B, N).
            visual: states (B, n, width).
            gone: mask of the states that this layer dropped, (B, n). States dropped earlier are no longer available.
        """
        marked = kept[..., None] * self.places  # (B, N, places)
        weights = (marked @ self.query / _PLACE**0.5).softmax(1)
        pooled = (weights[:, None] @ marked)[:, 0]
        mean = (gone[..., None] * visual).sum(1) / gone.sum(1, keepdim=True).clamp_min(1)
        return self.mask(pooled) + self.states(mean)


class Repair(nn.Module):
    """Corrects the states (B, T, width) that predict an answer, conditioned on a summary of the dropped tokens.

    Args:
        width: hidden width of the language model.
        size: hidden size of this module.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.own = nn.Linear(width, size)
        self.factor, self.shift = nn.Linear(size, size), nn.Linear(size, size)
        self.strength = nn.Parameter(torch.tensor(0.1))
        nn.init.xavier_uniform_(self.up.weight, gain=0.1)
        for part in (self.factor, self.shift):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, states: Tensor, lost: Tensor) -> Tensor:
        """Return the corrected states."""
        condition = lost[:, None] + self.own(states)
        inner = nn.functional.gelu(self.down(states))
        mended = (1 + self.factor(condition)) * inner + self.shift(condition)
        return states + self.strength * self.up(mended)
