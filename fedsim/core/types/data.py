"""Batches and data sets, and their public description."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, dtype, long

_IMAGES = (3, 4)  # dimensions of an image and of a volume

Modality = str  # kind of an example: images, text, or a custom task's name


LabelKind = Literal["class", "set", "numbers", "mask", "heads"]
"""Kind of an example's label.

One class, of the whole or of each token; a set of K binary labels; numbers; a class for each pixel; or several of
these, one per head of a model.
"""


SecretKind = Literal["identity", "canary", "address"]  # kind of secret planted into training text


@dataclass(frozen=True)
class Batch:
    """Model inputs (normalised, examples in the first dimension) and labels of the same length, usually classes.

    A hook may turn the labels into probabilities of shape (B, K). For text, inputs are token ids (B, T), and labels are
    next tokens or token tags (B, T), where the loss ignores -100.

    Attributes:
        inputs: model inputs, the target of reconstruction.
        labels: targets of the task's loss.
        extra_inputs: further model inputs, by argument name of `forward`; examples in the first dimension.
    """

    inputs: Tensor
    labels: Tensor
    extra_inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: Tensor) -> Batch:
        """Return the examples with these indices, in this order."""
        given = {name: column.index_select(0, chosen) for name, column in self.extra_inputs.items()}
        return Batch(self.inputs.index_select(0, chosen), self.labels.index_select(0, chosen), given)

    def split(self, size: int) -> Iterator[Batch]:
        """Yield batches of `size` examples; the last may be smaller."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Batch(
                self.inputs[part], self.labels[part], {name: column[part] for name, column in self.extra_inputs.items()}
            )

    @classmethod
    def concat(cls, batches: Sequence[Batch]) -> Batch:
        """Concatenate batches."""
        given = {name: torch.cat([batch.extra_inputs[name] for batch in batches]) for name in batches[0].extra_inputs}
        return cls(
            torch.cat([batch.inputs for batch in batches]), torch.cat([batch.labels for batch in batches]), given
        )


@dataclass(frozen=True)
class LabelHead:
    """One of several output heads of a model.

    Attributes:
        name: readable name.
        kind: kind of its label: a class, a set, numbers, or a mask of classes.
        shape: shape of an example's label; ``()`` for a class.
        outputs: number of model outputs that belong to it.
    """

    name: str
    kind: LabelKind
    shape: tuple[int, ...]
    outputs: int

    @property
    def labels(self) -> int:
        """Number of label entries of an example."""
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        """Number of classes of a class or a mask label."""
        return self.outputs // self.labels


def slice_heads(heads: Sequence[LabelHead]) -> Iterator[tuple[LabelHead, slice, slice]]:
    """Yield each head with the slices of its labels and of its outputs in a row."""
    label = output = 0
    for head in heads:
        yield head, slice(label, label + head.labels), slice(output, output + head.outputs)
        label, output = label + head.labels, output + head.outputs


@dataclass(frozen=True)
class InputSpec:
    """Public facts about a model's inputs.

    Attributes:
        shape: shape of an example, channels first, for example ``(3, 32, 32)``; ``(T,)`` for text.
        classes: number of classes; for next tokens, the vocabulary size; for tags, the number of tags; for labels other
            than classes, the number of model outputs.
        mean: per-channel mean that was subtracted, in pixel units of [0, 1]; empty for text.
        std: per-channel standard deviation that was divided by; empty for text.
        vocabulary: number of tokens, if inputs are token ids; None for images.
        padding: padding token; None for images, and if no example is padded.
        borders: special tokens that a tokenizer adds before and after a text, which do not belong to it.
        heads: output heads, in the order of their labels and outputs in a row; empty for a single output.
    """

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    vocabulary: int | None = None
    padding: int | None = None
    borders: tuple[int, ...] = ()
    heads: tuple[LabelHead, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether an example is an image (C, H, W), or a volume (C, D, H, W), i.e. a stack of images."""
        return self.vocabulary is None and len(self.shape) in _IMAGES

    @property
    def tokens(self) -> int | None:
        """Number of tokens of an example, including padding; None if inputs are not tokens."""
        return None if self.vocabulary is None else self.shape[0]

    @property
    def dtype(self) -> dtype | None:
        """Type of the inputs; None for that of the model's parameters."""
        return None if self.vocabulary is None else long


class Tokenizer(Protocol):
    """Maps text to token ids and back. It is public, like the model's architecture."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        ...

    @property
    def padding(self) -> int:
        """The padding token."""
        ...

    @property
    def begin(self) -> int | None:
        """The begin-of-text token; None if models expect none."""
        ...

    @property
    def end(self) -> int:
        """The end-of-text token."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """Stop tokens of generation: `end`, and any that ends a turn of a conversation."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without padding and end."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; padding and end give no text."""
        ...


@dataclass(frozen=True)
class Planted:
    """A secret planted into the training text a known number of times.

    Attributes:
        kind: ``"identity"`` (a generated person's phone number), ``"address"`` (e-mail address) or ``"canary"`` (random
            digits after a fixed prefix).
        text: the sentence, as far as examples contain it.
        examples: indices of the training examples that contain it; empty for a control that was left out.
        prompt: prefix of the sentence, which an attacker may know.
        form: format after the prompt of all sentences of this kind, ``#`` for a random digit and ``?`` for a random
            small letter.
    """

    kind: SecretKind
    text: str
    examples: tuple[int, ...]
    prompt: str = ""
    form: str = ""

    @property
    def span(self) -> str:
        """The secret part of the sentence: a number or an address, without the final period."""
        return self.text.removeprefix(self.prompt).strip(" .")


@dataclass(frozen=True)
class Similarities:
    """Human similarity ratings of pairs of test examples.

    Attributes:
        pairs: indices of two test examples, shape (P, 2).
        scores: higher for more similar pairs, shape (P,).
    """

    pairs: Tensor
    scores: Tensor


@dataclass(frozen=True)
class PlantedImage:
    """An out-of-distribution image, planted into the training set a known number of times.

    Attributes:
        image: normalised, shape (C, H, W).
        label: class assigned to it.
        examples: indices of the training examples with this image; empty for a control that was left out.
        left_out: images of the same distribution that were left out, shape (N, C, H, W).
    """

    image: Tensor
    label: int
    examples: tuple[int, ...]
    left_out: Tensor


@dataclass(frozen=True)
class Attribute:
    """A property of an example besides its label, which an attacker may infer.

    Attributes:
        values: names of its values.
        train: index of the value of each training example, -1 for none, shape (training set,).
        test: the same for test examples.
    """

    values: tuple[str, ...]
    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class Dataset:
    """Normalised training and test examples with their public description.

    Attributes:
        users: owner of each training example, or None if the set names no users; for text, its document.
        tokenizer: tokenizer of the text.
        planted_secrets: planted secrets of the text; private.
        planted_images: planted images; private.
        attributes: further properties of the examples, by name.
        task: name of the intended task; empty for the default task of such inputs and labels.
        similarities: human ratings for testing embeddings of sentences without labels (whose labels are all 0); else
            None.
    """

    train: Batch
    test: Batch
    spec: InputSpec
    class_names: tuple[str, ...]
    users: Tensor | None = None
    tokenizer: Tokenizer | None = None
    planted_secrets: tuple[Planted, ...] = ()
    planted_images: tuple[PlantedImage, ...] = ()
    similarities: Similarities | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    task: str = ""
