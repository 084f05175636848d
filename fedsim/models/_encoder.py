"""Input check and mean pooling of sentence encoders."""

from __future__ import annotations

from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models._language import text_shape

_NO_LABELS = 1


def sentence_shape(spec: InputSpec, model: str, longest: int) -> tuple[int, int]:
    """Return (tokens per example, size of the vocabulary).

    Args:
        spec: shape and labels of the examples.
        model: the model's name, for the message.
        longest: context length of the model.

    Raises:
        FedsimError: the inputs are not text, have labels, or are too long.
    """
    length, vocabulary = text_shape(spec, model)
    if spec.classes != _NO_LABELS:
        raise FedsimError(
            f"model '{model}' returns embeddings of sentences, but the data have labels of {spec.classes} classes. "
            'Choose a set without labels, for example data.name = "sentence-pairs".'
        )
    if length > longest:
        raise FedsimError(f"data.length is {length}, expected at most {longest}, the positions of model '{model}'.")
    return length, vocabulary


def is_word(tokens: Tensor, padding: int | None) -> Tensor:
    """Return which tokens (B, T) are not padding, boolean, shape (B, T)."""
    return tokens != (-1 if padding is None else padding)


def mean_pooled(hidden: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of hidden states (B, T, width) over the marked positions (B, T), shape (B, width)."""
    weights = counts.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0)
