"""Input check and output layers of language models: tied to the embedding, or for tags."""

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
    """Return whether the outputs are logits of all tokens, so that the model's own output layer is used."""
    return spec.classes == spec.vocabulary


class TiedHead(nn.Module):
    """Output layer with the embedding's weight, which stays a parameter of the embedding.

    With two names for one tensor, an optimizer that changes tensors by name could not train it.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.out_features = embedding.num_embeddings
        self._shared = [embedding]  # in a list, since a plain attribute would become a submodule

    @property
    def rows(self) -> Tensor:
        """The embedding's weight, a row for each token."""
        return self._shared[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits (B, T, V) of hidden states (B, T, width)."""
        return F.linear(hidden, self._shared[0].weight)


def matrix_of(head: nn.Module) -> Tensor | None:
    """Return the weight (V, width) of an output layer without further operations, or None."""
    if isinstance(head, TiedHead):
        return head.rows
    return head.weight if type(head) is nn.Linear and head.bias is None else None


class TaggingHead(nn.Module):
    """Logits of K tags (B, T, K) from hidden states (B, T, width): dropout, then a linear layer with bias.

    Paper: Dukic, Snajder 2024, arXiv 2401.14556, section 3. The layer is initialised like Llama's layers, with zero
    bias.

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
        """Return logits."""
        return self.score(self.dropout(hidden))
