"""What a model is trained to do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, final

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.types.basics import Draws
from fedsim.core.types.configured import ANYTHING, ConfigT, Configured
from fedsim.core.types.data import Batch, Dataset, InputSpec, LabelKind, Modality
from fedsim.core.types.grants import Knowledge
from fedsim.core.types.guesses import Reconstruction
from fedsim.core.types.updates import Truth

Model = Callable[..., Tensor]  # a module, or a function that stands for one
Answer = Callable[[Model, Batch, Draws], tuple[Tensor, Tensor]]  # `Task.answer`

Shown = np.ndarray | tuple[str, ...]  # pictures (B, C, H, W) with pixels in [0, 1], or a text for each example

LABELS_IN_WORDS: Mapping[LabelKind, str] = {
    "class": "classes",
    "set": "sets of 0 and 1",
    "numbers": "numbers",
    "mask": "classes of pixels",
    "heads": "of several heads",
}

_PREFIX = "task."


class Item(Protocol):
    """One example beside the guess that is matched to it; `fedsim.record.ItemScore` is one."""

    index: int
    values: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """What a task makes of a guess.

    Attributes:
        items: of `fedsim.record.ItemScore`, one an original and in their order, with its metrics by name.
        values: metrics of the update as a whole, by name.
        order: which guess belongs to each original, shape (B,), where guesses and their masks can be put in their
            order; else None.
        guess: what `order` counts, if missing guesses were filled up.
        notes: for the reader of the record.
        arrays: what else a report shows, by name.
    """

    items: tuple[Item, ...]
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    order: Tensor | None = None
    guess: Reconstruction | None = None
    notes: tuple[str, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


class Task(Configured[ConfigT]):
    """Says what the outputs of a model are for: a step's loss, how good a model is, how near a guess is to an example.

    An attacker knows the task, as it knows the model.

    Attributes:
        modality: what one example is; a method works on it if its `modalities` name it.
        noun: what one example is called, as the metrics of such examples call it.
        at_once: examples of one forward pass where a model is evaluated.
        label_kind: what the label of an example is.
        has_labels: whether examples have labels; where they have none a component must say what clients minimise.
        labels_are_inputs: whether labels repeat the inputs, so that who knows them knows everything.
        knowable: which of the labels and the input statistics there are for a threat model to grant.
    """

    modality: ClassVar[Modality] = "images"
    noun: ClassVar[str] = "image"
    at_once: ClassVar[int] = 512
    label_kind: ClassVar[LabelKind] = "class"
    has_labels: ClassVar[bool] = True
    labels_are_inputs: ClassVar[bool] = False
    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels"})

    def fitted(self, data: Dataset) -> Self:
        """Return the task as it is for these data; itself where it is the same for all."""
        return self

    def refuses(self, data: Dataset) -> str | None:
        """Return why it does not fit this data set, as the end of a sentence, or None when it does."""
        return None

    def refuses_model(self, model: nn.Module) -> str | None:
        """Return why it cannot run this model, as the end of a sentence, or None when it can."""
        return None

    def refuses_labels(self, labels: Tensor, spec: InputSpec) -> str | None:
        """Return what is wrong with labels that an attacker was given, as the end of a sentence, or None."""
        return None

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...] | None:
        """Return the shape of a model's outputs for examples with these labels; None where any will do."""
        return None

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """Draw what is hidden in a step beside dropout: noise, times, masked places. Nothing for most tasks.

        Args:
            batch: as the model sees it, not empty.
            generator: the client's for this step.

        Returns:
            By name, the first dimension that of the examples.
        """
        return {}

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """Run the model once on a batch."""
        return model(batch.inputs, **batch.given)

    def tell(self, model: nn.Module, given: Mapping[str, Tensor], labels: Tensor | None) -> None:
        """Have an attacker's model keep what the attacker was granted, so that it runs on inputs alone.

        Args:
            model: the attacker's copy, which may be changed.
            given: what the model reads beside the inputs.
            labels: None where they are not granted.
        """

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        """Return what the outputs are compared with, the first dimension that of the examples: the labels, or more."""
        return batch.labels

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, shape (B,)."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the examples, a scalar."""
        return self.losses(outputs, targets).mean()

    @abstractmethod
    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return how good a model is on the test set: by the name of the metric, the most telling first.

        Args:
            model: in evaluation mode, without gradients.
            data: its test set is meant.
            generator: for what a task draws.
        """

    @abstractmethod
    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Compare what an attack made of an update with the truth, example by example.

        Args:
            truth: the private side of the update.
            examples: every example behind it, once.
            guess: the attacker's; of any number of examples.
            data: what else is known about the examples.
        """

    def noun_of(self, spec: InputSpec) -> str:
        """Return what one example of these data is called."""
        return self.noun

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return examples for people: pictures, or a text each. Here the numbers of each in a row."""
        return tuple(" ".join(f"{float(number):.4g}" for number in row.unbind()) for row in inputs.flatten(1).unbind())

    @final
    @property
    def draws(self) -> bool:
        """Whether a step has hidden randomness of the task's own."""
        return type(self).draw is not Task[Any].draw

    @final
    def named_draws(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return what `draw` draws, by the names under which a client keeps it beside the draws of components."""
        return {_PREFIX + name: tensor for name, tensor in self.draw(batch, generator).items()}

    @final
    def answer(self, model: Model, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Run the model once on a batch, and return its outputs and what they are compared with.

        Args:
            model: to run.
            batch: as the model sees it.
            draws: all of the step, those of components among them.
        """
        named = {name.removeprefix(_PREFIX): tensor for name, tensor in draws.items() if name.startswith(_PREFIX)}
        return self.outputs(model, batch, named), self.targets(batch, named)

    @final
    def does_not_suit(self, modalities: frozenset[Modality]) -> str | None:
        """Return why what works on these does not work on the task's examples, as the end of a sentence, or None.

        No other place asks what examples are.
        """
        if self.modality in modalities or modalities >= ANYTHING:
            return None
        held = "images, rows or series" if self.modality == "images" else self.modality
        return f"works on {' and '.join(sorted(modalities))}, and the examples are {held}"

    @final
    def refuses_method(self, method: Configured[Any] | type[Configured[Any]]) -> str | None:
        """Return why a method does not work on the task's examples and their labels, as the end of a sentence, or None.

        Who sees tensors of the model alone works with any labels.
        """
        unsuited = self.does_not_suit(method.modalities)
        if unsuited is not None or method.modalities >= ANYTHING or self.label_kind in method.label_kinds:
            return unsuited
        wanted = " or ".join(LABELS_IN_WORDS[kind] for kind in sorted(method.label_kinds))
        return f"works with labels that are {wanted}, and these are {self.labels_in_words}"

    @final
    @property
    def labels_in_words(self) -> str:
        """What the labels are, for people."""
        return LABELS_IN_WORDS[self.label_kind]


def plain_answer(model: Model, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return a model's outputs and the labels: the answer of every task that neither draws nor gives."""
    return model(batch.inputs), batch.labels
