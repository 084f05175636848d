"""Batches and data sets, and the public facts about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, dtype, long

_IMAGES = (3, 4)  # dimensions of an image, and of a volume

Modality = str  # what one example is: images, text, or what a task of your own calls it


LabelKind = Literal["class", "set", "numbers", "mask", "heads"]
"""What the label of an example is: one class, of the whole or of each token; which of K things hold, 0 or 1 each;
numbers; a class for every pixel; or several of these, one for each head of a model."""


SecretKind = Literal["identity", "canary", "address"]  # what is planted into training text


@dataclass(frozen=True)
class Batch:
    """Model inputs (normalised, first dimension is the example) and labels of the same length, most often classes.

    A hook may turn the labels into probabilities of shape (B, K). Of text, inputs are token numbers (B, T), and labels
    are the next tokens or the tags of the tokens (B, T), where -100 is left out of the loss.

    Attributes:
        inputs: what an attacker is after.
        labels: what the task compares the model's outputs with.
        given: what else the model reads, by the name of the argument of its `forward`; first dimension the example.
    """

    inputs: Tensor
    labels: Tensor
    given: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, chosen: Tensor) -> Batch:
        """Return the examples of these numbers, in their order."""
        given = {name: column.index_select(0, chosen) for name, column in self.given.items()}
        return Batch(self.inputs.index_select(0, chosen), self.labels.index_select(0, chosen), given)

    def split(self, size: int) -> Iterator[Batch]:
        """Yield the examples in pieces of a size; the last one may be smaller."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Batch(
                self.inputs[part], self.labels[part], {name: column[part] for name, column in self.given.items()}
            )

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Return the examples of several batches, one after the other."""
        given = {name: torch.cat([batch.given[name] for batch in batches]) for name in batches[0].given}
        return cls(
            torch.cat([batch.inputs for batch in batches]), torch.cat([batch.labels for batch in batches]), given
        )


@dataclass(frozen=True)
class LabelHead:
    """One of several things that a model says of an example.

    Attributes:
        name: for people.
        kind: what its label is: a class, a set, numbers, or a mask of classes.
        shape: of its label of one example; ``()`` of a class.
        outputs: how many outputs of the model are its own.
    """

    name: str
    kind: LabelKind
    shape: tuple[int, ...]
    outputs: int

    @property
    def labels(self) -> int:
        """Numbers of its label of one example."""
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        """Classes of a class or a mask."""
        return self.outputs // self.labels


def placed(heads: Sequence[LabelHead]) -> Iterator[tuple[LabelHead, slice, slice]]:
    """Yield every head with the places of its labels and of its outputs in a row."""
    label = output = 0
    for head in heads:
        yield head, slice(label, label + head.labels), slice(output, output + head.outputs)
        label, output = label + head.labels, output + head.outputs


@dataclass(frozen=True)
class InputSpec:
    """Public facts about a model's inputs.

    Attributes:
        shape: shape of one example, channels first, for example ``(3, 32, 32)``; of text ``(T,)``.
        classes: number of classes; of next tokens, that of all tokens; of tags, that of all tags; of labels that are
            no classes, how many outputs a model has for each.
        mean: per-channel mean that was subtracted, in pixel units of [0, 1]; empty for text.
        std: per-channel standard deviation that was divided by; empty for text.
        vocabulary: number of tokens, if inputs are token numbers; None for images.
        padding: the token that fills up a short example; None for images, and where no example is filled up.
        borders: tokens that a tokenizer puts in front of a text and behind it, which are no part of it.
        heads: where a model says several things, in the order in which their labels and outputs stand in one row.
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
        """Whether an example is an image (C, H, W), or a volume (C, D, H, W), which is one of its slices."""
        return self.vocabulary is None and len(self.shape) in _IMAGES

    @property
    def tokens(self) -> int | None:
        """Tokens of an example, with what fills it up; None where inputs are no tokens."""
        return None if self.vocabulary is None else self.shape[0]

    @property
    def dtype(self) -> dtype | None:
        """Type of the inputs; None for that of the model's parameters."""
        return None if self.vocabulary is None else long


class Tokenizer(Protocol):
    """Text to token numbers and back. It is public, as is a model's architecture."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        ...

    @property
    def padding(self) -> int:
        """The token that fills up a short example."""
        ...

    @property
    def begin(self) -> int | None:
        """The token that models expect in front of a text; None where they expect none."""
        ...

    @property
    def end(self) -> int:
        """The token that follows the last one of a text."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end what a model writes: `end`, and any that ends its turn in a conversation."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without padding and end."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; of padding and end nothing."""
        ...


@dataclass(frozen=True)
class Planted:
    """A secret that was put into the training text a known number of times.

    Attributes:
        kind: ``"identity"`` (a generated person's phone number), ``"address"`` (e-mail address) or ``"canary"``
            (random digits behind a fixed beginning).
        text: the sentence, as far as examples hold it.
        examples: numbers of the training examples that hold it; none for one that was left out, as a control.
        prompt: the beginning of the sentence, which an attacker may know.
        form: what all sentences of this kind have behind the prompt, ``#`` for a random digit and ``?`` for a random
            small letter.
    """

    kind: SecretKind
    text: str
    examples: tuple[int, ...]
    prompt: str = ""
    form: str = ""

    @property
    def span(self) -> str:
        """What is secret of the sentence: a number or an address, without the sign at the end."""
        return self.text.removeprefix(self.prompt).strip(" .")


@dataclass(frozen=True)
class Similarities:
    """How alike people found pairs of test examples.

    Attributes:
        pairs: numbers of two test examples, shape (P, 2).
        scores: higher for those that are more alike, shape (P,).
    """

    pairs: Tensor
    scores: Tensor


@dataclass(frozen=True)
class PlantedImage:
    """An image that nothing else looks like, put into the training set a known number of times.

    Attributes:
        image: normalised, shape (C, H, W).
        label: the class that it was given.
        examples: numbers of the training examples that are it; none for one that was left out, as a control.
        others: images that were drawn alike and left out, shape (N, C, H, W).
    """

    image: Tensor
    label: int
    examples: tuple[int, ...]
    others: Tensor


@dataclass(frozen=True)
class Attribute:
    """A property of an example beside its label, which an attacker may try to read.

    Attributes:
        values: names of its values.
        train: number of the value of each training example, -1 where it has none, shape (training set,).
        test: the same of the test examples.
    """

    values: tuple[str, ...]
    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class Dataset:
    """Normalised training and test examples with what is public about them.

    Attributes:
        users: owner of each training example, or None when the set names no users; of text, its document.
        tokenizer: of text, what made its tokens.
        planted: of text, the secrets in it; private.
        planted_images: of images, those that were planted; private.
        attributes: what else is true of the examples, by name.
        task: name of the task that it is for; when empty, the usual one for such inputs and labels.
        similarities: of sentences without labels, whose labels are all 0, what embeddings are tested on; else None.
    """

    train: Batch
    test: Batch
    spec: InputSpec
    class_names: tuple[str, ...]
    users: Tensor | None = None
    tokenizer: Tokenizer | None = None
    planted: tuple[Planted, ...] = ()
    planted_images: tuple[PlantedImage, ...] = ()
    similarities: Similarities | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    task: str = ""
