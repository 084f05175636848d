"""Code of language models: the shape of their inputs, an output layer tied to the embedding, and one for tags."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec

_HEAD_DROPOUT = 0.1
_STD = 0.02


def text_shape(spec: InputSpec, model: str) -> tuple[int, int]:
    """Return (tokens per example, size of the vocabulary).

    Raises:
        FedsimError: the inputs are not text.
    """
    if spec.vocabulary is None:
        raise FedsimError(f"model '{model}' reads text, got inputs of shape {spec.shape}. Choose a text set as data.")
    return spec.shape[0], spec.vocabulary


def scores_tokens(spec: InputSpec) -> bool:
    """Say whether outputs are scores of every token, so that the model's own output layer serves."""
    return spec.classes == spec.vocabulary


class TiedHead(nn.Module):
    """Scores of all tokens by the embedding's weight, which stays a parameter of the embedding.

    With two names for one tensor, an optimizer that changes tensors by name could not train it.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.out_features = embedding.num_embeddings
        self._shared = [embedding]  # in a list: a plain attribute would make it a submodule

    @property
    def rows(self) -> Tensor:
        """The embedding's weight, a row for each token."""
        return self._shared[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Return scores (B, T, V) of hidden states (B, T, width)."""
        return F.linear(hidden, self._shared[0].weight)


def matrix_of(head: nn.Module) -> Tensor | None:
    """Return the matrix (V, width) that an output layer multiplies with, or None where it does more."""
    if isinstance(head, TiedHead):
        return head.rows
    return head.weight if type(head) is nn.Linear and head.bias is None else None


class TaggingHead(nn.Module):
    """Scores of K tags (B, T, K) from hidden states (B, T, width): dropout, then one linear layer with a bias.

    Paper: Dukic, Snajder 2024, arXiv 2401.14556, section 3. The layer starts like Llama's layers, with a bias of zero.

    Args:
        width: size of a hidden state.
        tags: number of tags K.
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
