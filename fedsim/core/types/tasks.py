"""Base class of tasks: losses, evaluation, and scores of guesses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, final

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.grants import Knowledge
from fedsim.core.types.basics import Draws
from fedsim.core.types.configured import ANYTHING, ConfigT, ConfiguredMethod
from fedsim.core.types.data import Batch, Dataset, InputSpec, LabelKind, Modality
from fedsim.core.types.guesses import Reconstruction
from fedsim.core.types.updates import Truth

Model = Callable[..., Tensor]  # a module, or an equivalent function
Answer = Callable[[Model, Batch, Draws], tuple[Tensor, Tensor]]  # signature of `Task.answer`

Shown = np.ndarray | tuple[str, ...]  # images (B, C, H, W) with pixels in [0, 1], or a text per example

LABELS_IN_WORDS: Mapping[LabelKind, str] = {
    "class": "classes",
    "set": "sets of 0 and 1",
    "numbers": "numbers",
    "mask": "classes of pixels",
    "heads": "of several heads",
}

_PREFIX = "task."


class Item(Protocol):
    """Scores of an example and the guess matched to it; implemented by `fedsim.record.ItemScore`."""

    index: int
    values: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """A task's scores of a guess.

    Attributes:
        items: a `fedsim.record.ItemScore` per original, in order, with its metrics by name.
        values: metrics of the update as a whole, by name.
        order: index of the guess matched to each original, shape (B,), if guesses and masks can be reordered; else
            None.
        guess: the guess that `order` indexes, if missing guesses were filled in.
        notes: remarks for readers of the record.
        arrays: further arrays for reports, by name.
    """

    items: tuple[Item, ...]
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    order: Tensor | None = None
    guess: Reconstruction | None = None
    notes: tuple[str, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


class Task(ConfiguredMethod[ConfigT]):
    """Defines a training task: the loss of a step, the quality of a model, and the similarity of guesses to examples.

    An attacker knows the task, as it knows the model.

    Attributes:
        modality: kind of an example; a method supports it if its `modalities` contain it.
        noun: name of an example in the names of metrics.
        eval_batch_size: batch size of evaluation.
        label_kind: kind of an example's label.
        has_labels: whether examples have labels; otherwise a component must provide the clients' objective.
        labels_are_inputs: whether labels repeat the inputs, so that knowing the labels reveals the inputs.
        knowable: task-dependent grants (labels, input statistics) that exist for this task.
    """

    modality: ClassVar[Modality] = "images"
    noun: ClassVar[str] = "image"
    eval_batch_size: ClassVar[int] = 512
    label_kind: ClassVar[LabelKind] = "class"
    has_labels: ClassVar[bool] = True
    labels_are_inputs: ClassVar[bool] = False
    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels"})

    def fit_to_data(self, data: Dataset) -> Self:
        """Return the task adapted to this data set; the task itself if it does not depend on the data."""
        return self

    def refuses(self, data: Dataset) -> str | None:
        """Return why the task does not fit this data set, as the end of a sentence; None if it fits."""
        return None

    def refuses_model(self, model: nn.Module) -> str | None:
        """Return why the task cannot run this model, as the end of a sentence; None if it can."""
        return None

    def refuses_labels(self, labels: Tensor, spec: InputSpec) -> str | None:
        """Return why labels given to an attacker are invalid, as the end of a sentence, or None."""
        return None

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...] | None:
        """Return the shape of a model's outputs for examples with these labels; None if any shape is valid."""
        return None

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """Sample the hidden random inputs of a step besides dropout: noise, times, masked positions.

        Empty for most tasks.

        Args:
            batch: the batch as the model gets it, not empty.
            generator: random source of the client in this step.

        Returns:
            Tensors by name, with examples in the first dimension.
        """
        return {}

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """Run the model on a batch, and return its outputs."""
        return model(batch.inputs, **batch.extra_inputs)

    def tell(self, model: nn.Module, given: Mapping[str, Tensor], labels: Tensor | None) -> None:
        """Store granted knowledge in an attacker's model, so that it runs on inputs alone.

        Args:
            model: the attacker's copy, which may be changed.
            given: further model inputs.
            labels: None if not granted.
        """

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the targets of the loss, with examples in the first dimension: the labels, or more."""
        return batch.labels

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, shape (B,)."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the examples, a scalar."""
        return self.losses(outputs, targets).mean()

    @abstractmethod
    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the quality of a model on the test set: values by metric name, the most important first.

        Args:
            model: in evaluation mode, without gradients.
            data: data set, whose test set is used.
            generator: random source of the task's draws.
        """

    @abstractmethod
    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score an attack's guess against the ground truth, example by example.

        Args:
            truth: ground truth of the update.
            examples: each example of the update, once.
            guess: the attacker's guess, of any number of examples.
            data: data set, for further facts about the examples.
        """

    def noun_of(self, spec: InputSpec) -> str:
        """Return the name of an example of these data."""
        return self.noun

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return examples for display: images, or one text each. By default the values of each example in a row."""
        return tuple(" ".join(f"{float(number):.4g}" for number in row.unbind()) for row in inputs.flatten(1).unbind())

    @final
    @property
    def draws(self) -> bool:
        """Whether the task draws hidden random inputs in a step."""
        return type(self).draw is not Task[Any].draw

    @final
    def named_draws(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the result of `draw`, by the names under which a client stores it with the draws of components."""
        return {_PREFIX + name: tensor for name, tensor in self.draw(batch, generator).items()}

    @final
    def answer(self, model: Model, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Run the model on a batch, and return its outputs and the targets of the loss.

        Args:
            model: the model.
            batch: the batch as the model gets it.
            draws: all draws of the step, including those of components.
        """
        named = {name.removeprefix(_PREFIX): tensor for name, tensor in draws.items() if name.startswith(_PREFIX)}
        return self.outputs(model, batch, named), self.targets(batch, named)

    @final
    def does_not_suit(self, modalities: frozenset[Modality]) -> str | None:
        """Return why methods for these modalities do not suit the task's examples, as the end of a sentence, or None.

        All checks of modalities use this function.
        """
        if self.modality in modalities or modalities >= ANYTHING:
            return None
        held = "images, rows or series" if self.modality == "images" else self.modality
        return f"works on {' and '.join(sorted(modalities))}, and the examples are {held}"

    @final
    def refuses_method(self, method: ConfiguredMethod[Any] | type[ConfiguredMethod[Any]]) -> str | None:
        """Return why a method does not suit the task's examples and labels, as the end of a sentence, or None.

        Methods that use only tensors of the model suit any labels.
        """
        unsuited = self.does_not_suit(method.modalities)
        if unsuited is not None or method.modalities >= ANYTHING or self.label_kind in method.label_kinds:
            return unsuited
        wanted = " or ".join(LABELS_IN_WORDS[kind] for kind in sorted(method.label_kinds))
        return f"works with labels that are {wanted}, and these are {self.labels_in_words}"

    @final
    @property
    def labels_in_words(self) -> str:
        """Readable name of the label kind."""
        return LABELS_IN_WORDS[self.label_kind]


def plain_answer(model: Model, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return a model's outputs and the labels: `Task.answer` for tasks without draws or further inputs."""
    return model(batch.inputs), batch.labels
