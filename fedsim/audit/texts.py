"""Subjects with texts: the loader yields mappings with `input_ids` as in transformers, or pairs (tokens, classes).

A label per text makes a classifier. Labels for every token, or none, make a causal language model with the next
tokens as labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Dataset, InputSpec

KEY = "input_ids"
MASK = "attention_mask"
_GIVEN = (MASK, "token_type_ids")
HINT = "Texts are mappings with input_ids, attention_mask and labels: let the loader's collate_fn call a tokenizer."
_LABELS = ("labels", "label", "targets")
_TEXTS = 2  # dimensions of a batch of tokens
_TOKENS = (torch.int32, torch.int64)


@dataclass(frozen=True)
class TokenDecoder:
    """Tokenizer for metrics: the user's own tokenizer, or numbers as words.

    Attributes:
        vocabulary: number of tokens.
        padding: padding token.
        tokenizer: the user's tokenizer with `decode`; None for numbers.
    """

    vocabulary: int
    padding: int
    tokenizer: Any = None
    begin: int | None = None
    end: int = field(default=-1)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [int(word) for word in text.split()] if self.tokenizer is None else list(self.tokenizer.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, or their numbers."""
        if self.tokenizer is None:
            return " ".join(str(int(token)) for token in tokens)
        return str(self.tokenizer.decode([int(token) for token in tokens]))


def is_text(item: Any) -> bool:
    """Return whether a loader item holds tokens."""
    return isinstance(item, Mapping) and KEY in cast("Mapping[str, Any]", item)


def as_mapping(item: Any, model: nn.Module) -> Any:
    """Return a pair (tokens, class of each text) as a mapping if the model embeds tokens, else the item itself.

    Labels of every token stay as they are: they may be the tokens, or the next tokens.
    """
    match item:
        case (Tensor() as tokens, Tensor() as labels) if tokens.dtype in _TOKENS and tokens.ndim == _TEXTS:
            return {KEY: tokens, "labels": labels} if labels.ndim == 1 and _embedding_of(model) is not None else item
        case _:
            return item


def batch_of(item: Mapping[str, Any], subject: str) -> Batch:
    """Return the texts of a loader item as a batch.

    Raises:
        FedsimError: tokens or labels have an unsupported shape or type.
    """
    tokens = item[KEY]
    labels = next((item[key] for key in _LABELS if item.get(key) is not None), None)
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.ndim != _TEXTS:
        shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise FedsimError(f"{subject} yields {KEY} of shape {shape}, expected integers of shape (batch, tokens).")
    if labels is None:
        labels = tokens
    if not isinstance(labels, Tensor) or labels.is_floating_point() or len(labels) != len(tokens):
        raise FedsimError(f"{subject} yields labels of another length or type than {KEY}, expected integers.")
    given = {name: item[name].detach().cpu() for name in _GIVEN if isinstance(item.get(name), Tensor)}
    if labels.ndim == _TEXTS:
        if tokens.shape[1] < _TEXTS:
            raise FedsimError(f"{subject} yields texts of a single token, and a language model needs a next token.")
        return _with_next(tokens.detach().cpu().long(), labels if labels.shape == tokens.shape else tokens, given)
    return Batch(tokens.detach().cpu().long(), labels.detach().cpu().long(), given)


def _with_next(tokens: Tensor, labels: Tensor, given: Mapping[str, Tensor]) -> Batch:
    """Return texts without their last token, which serves only as a label, and the next tokens as labels."""
    after = labels.detach().cpu().long()[:, 1:]
    kept = {name: tensor[:, :-1] for name, tensor in given.items()}
    if MASK in given:
        kept[MASK] = kept[MASK] * given[MASK][:, 1:]
        after = after.masked_fill(kept[MASK] == 0, IGNORED)
    return Batch(tokens[:, :-1], after, kept)


def concat_texts(batches: Sequence[Batch], padding: int) -> Batch:
    """Return all texts in a batch, padded to the longest; an attention mask without zeros is omitted."""
    longest = max(batch.inputs.shape[1] for batch in batches)

    def filled(tensors: list[Tensor], value: int) -> Tensor:
        return torch.cat([nn.functional.pad(t, (0, longest - t.shape[1]), value=value) for t in tensors])

    is_of_tokens = batches[0].labels.ndim == _TEXTS
    labels = [batch.labels for batch in batches]
    names = {name for batch in batches for name in batch.extra_inputs}
    if any(batch.inputs.shape[1] < longest for batch in batches):
        names.add(MASK)
    given = {
        name: filled([batch.extra_inputs.get(name, _default(name, batch.inputs)) for batch in batches], 0)
        for name in sorted(names)
    }
    if MASK in given and bool((given[MASK] == 1).all()):
        del given[MASK]
    inputs = filled([batch.inputs for batch in batches], padding)
    if MASK in given and is_of_tokens:
        inputs = inputs.masked_fill(given[MASK] == 0, padding)
    return Batch(inputs, filled(labels, IGNORED) if is_of_tokens else torch.cat(labels), given)


def _default(name: str, tokens: Tensor) -> Tensor:
    return torch.ones_like(tokens) if name == MASK else torch.zeros_like(tokens)


def padding_of(model: nn.Module) -> int:
    """Return the padding token of the model's configuration, or 0."""
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    return padding if isinstance(padding, int) and padding >= 0 else 0


def dataset_of(train: Batch, test: Batch, model: nn.Module, classes: int, tokenizer: Any, name: str) -> Dataset:
    """Return the texts as the dataset of a task.

    Raises:
        FedsimError: the vocabulary cannot be determined, or does not contain every token.
    """
    vocabulary = _vocabulary(model, name)
    length = max(batch.inputs.shape[1] for batch in (train, test) if len(batch))
    train, test = (concat_texts([batch, _blank(length, batch)], padding_of(model)) for batch in (train, test))
    greatest = max(int(batch.inputs.max()) for batch in (train, test) if len(batch))
    if greatest >= vocabulary:
        raise FedsimError(f"'{name}': a token is {greatest}, but the model embeds tokens 0 to {vocabulary - 1}.")
    is_of_tokens = train.labels.ndim == _TEXTS
    if is_of_tokens and classes != vocabulary:
        raise FedsimError(
            f"'{name}' has a label for every token, but the model scores {classes} classes and embeds {vocabulary} "
            "tokens: only language models and classifiers of whole texts can be audited."
        )
    padding = padding_of(model)
    is_filled = any(MASK in batch.extra_inputs for batch in (train, test))
    spec = InputSpec((length,), classes, (), (), vocabulary, padding if is_filled else None)
    task = "next-token" if is_of_tokens else "text-classification"
    if any(train.extra_inputs.keys() ^ test.extra_inputs.keys()):
        train, test = (_with_given(batch, {*train.extra_inputs, *test.extra_inputs}) for batch in (train, test))
    decoder = cast("Any", TokenDecoder(vocabulary, padding if is_filled else -1, tokenizer))
    return Dataset(train, test, spec, tuple(map(str, range(classes))), tokenizer=decoder, task=task)


def _blank(length: int, like: Batch) -> Batch:
    """Return an empty batch of texts of this length, for padding."""
    labels = like.labels.new_empty((0, length) if like.labels.ndim == _TEXTS else (0,))
    given = {name: tensor.new_empty((0, length)) for name, tensor in like.extra_inputs.items()}
    return Batch(like.inputs.new_empty((0, length)), labels, given)


def _with_given(batch: Batch, names: set[str]) -> Batch:
    given = {name: batch.extra_inputs.get(name, _default(name, batch.inputs)) for name in sorted(names)}
    return Batch(batch.inputs, batch.labels, given)


def _vocabulary(model: nn.Module, name: str) -> int:
    """Return the number of tokens that a model embeds."""
    table = _embedding_of(model)
    if table is None:
        raise FedsimError(f"the model of '{name}' embeds no tokens, but its loader yields '{KEY}'.")
    return table.num_embeddings


def _embedding_of(model: nn.Module) -> nn.Embedding | None:
    """Return the embedding of a model's tokens: its largest, unless the model names one."""
    ask = getattr(model, "get_input_embeddings", None)
    table = ask() if callable(ask) else None
    if isinstance(table, nn.Embedding):
        return table
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return max(tables, key=lambda embedding: embedding.num_embeddings, default=None)


def chance(labels: Tensor) -> float:
    """Return the share of the most frequent class or token."""
    known = labels[labels != IGNORED]
    return float(known.bincount().max()) / len(known) if len(known) else math.nan
