"""What language models share: what they read, an output layer that is the embedding itself, and one that tags."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec

_HEAD_DROPOUT = 0.1
_STD = 0.02


def text_shape(spec: InputSpec, model: str) -> tuple[int, int]:
    """Return (tokens of an example, number of tokens there are).

    Raises:
        FedsimError: the inputs are no text.
    """
    if spec.vocabulary is None:
        raise FedsimError(f"model '{model}' reads text, got inputs of shape {spec.shape}. Choose a text set as data.")
    return spec.shape[0], spec.vocabulary


class TiedHead(nn.Module):
    """Scores of all tokens with the embedding's own weight, which it does not own: the weight has one name only.

    A state dict with two names of one tensor could not be trained by an optimizer that changes tensors by name.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.out_features = embedding.num_embeddings
        self._shared = [embedding]  # in a list, so that it is no part of this module

    def forward(self, hidden: Tensor) -> Tensor:
        """Return scores (B, T, V) of hidden states (B, T, width)."""
        return F.linear(hidden, self._shared[0].weight)


class TaggingHead(nn.Module):
    """Scores of K tags (B, T, K) from hidden states (B, T, width): dropout, then one linear layer with a bias.

    Paper: Dukic, Snajder 2024, arXiv 2401.14556, section 3. The layer starts as a Llama's do, its bias at zero.

    Args:
        width: of a hidden state.
        tags: K.
    """

    def __init__(self, width: int, tags: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(_HEAD_DROPOUT)
        self.score = nn.Linear(width, tags)
        nn.init.normal_(self.score.weight, std=_STD)
        nn.init.zeros_(self.score.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return scores."""
        return self.score(self.dropout(hidden))
