"""Audited subject: a user's model, loss and data, and their validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.audit import texts
from fedsim.audit.copying import copy_model, modes
from fedsim.audit.foreign import reason
from fedsim.audit.groups import CLASSES, ExampleGroups, Grouping, group_examples, values_of
from fedsim.audit.pairs import are_one_hot, are_probabilities, convert_labels, pair_of
from fedsim.audit.record import Sampling
from fedsim.audit.trial_step import has_numbers, number_loss, outputs_in, scores_of, try_step
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Task
from fedsim.core.nets.losses import OneHotLoss, are_classes, cross_entropy, is_cross_entropy
from fedsim.core.types import Batch, Dataset, InputSpec, LabelHead, Loss
from fedsim.scenario import Choice
from fedsim.tasks.core.fitting import usual_task
from fedsim.tasks.core.numbers import NumberTask
from fedsim.tasks.core.targets import TargetTask

MOST_EXAMPLES = 2000
_IMAGES = 4  # batch, channels, height, width
_ROWS = 2  # batch, numbers
_TRIED = 5  # examples for the comparison of a loss with cross-entropy
LossOfViews = Literal["halves", "stacked"]


@dataclass(frozen=True)
class ClientReply:
    """Update that a user's own client sent after a round, with its ground truth.

    Attributes:
        weight_delta: received minus sent weights, by the name of each trained parameter.
        batches: batch of every local step.
        mods: names of the mods that change the reply after training.
    """

    weight_delta: Mapping[str, Tensor]
    batches: tuple[Batch, ...]
    mods: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoisyMessage:
    """A private message, for the check of the generator of its noise.

    Attributes:
        draw: returns the tensors of the message by name, in the order in which their noise is drawn.
        deviation: standard deviation of the noise by the mechanism's settings, > 0; None: it is measured. The state of
            NumPy's legacy generator is recovered only at an exact deviation.
    """

    draw: Callable[[], Mapping[str, Tensor]]
    deviation: float | None = None


@dataclass(frozen=True)
class Subject:
    """Model, loss and data returned by a user's factory; a tuple (model, loss, loader) uses defaults for the rest.

    Attributes:
        model: any module that maps images (B, C, H, W), or table rows (B, C), to scores (B, classes), or to an
            object with ``logits``; or ``input_ids`` to scores of each text, or of each next token. Each module
            trains in the mode, training or evaluation, in which the user returned it.
        loss: ``loss(scores, labels) -> scalar``; cross-entropy by default.
        loader: yields the client's data as (images, labels), or as mappings with these entries, or with ``input_ids``,
            ``attention_mask`` and ``labels``. None only for captured gradients with unknown originals.
        test: further examples, for accuracy and as non-members; by default a part of the loader's examples.
        mean: value per channel, subtracted from pixels in [0, 1]; by default estimated from the images.
        std: divisor per channel.
        logits: extracts the scores if the model returns neither a tensor nor an object with ``logits``.
        optimizer: name of a component such as ``sgd`` or ``adam``.
        learning_rate: step size of the optimizer.
        local_steps: steps between the received and the sent weights; with 1 the gradient itself is sent.
        defenses: defenses of the client, as tables of a scenario: ``({"name": "pruning", "rate": 0.9},)``.
        shape: shape of an image, needed without a loader.
        tokenizer: tokenizer with ``decode``, to display texts; by default tokens are displayed as numbers.
        group: grouping for a comparison of risk, in addition to classes: a key of the loader's mappings, a column
            number
            of a table, or a function from a loader item to a value per example.
        sampling: batch sampling: passes over the data, or Poisson.
        views: form of the loss if the loader yields two views of each example, ``(x1, x2)`` or ``((x1, x2),
            anything)``:
            ``"halves"`` for ``loss(z1, z2)``, each (B, ...), or ``"stacked"`` for ``loss(z, partners)``, with z
            (2 B, ...) of all views and the row of each row's partner (2 B,).
        heads: heads of a model with several outputs; labels and outputs of all heads are concatenated in a row.
        names: parameter names by tensor name in files of captured gradients and weights; missing names are unchanged.
        reply: captured update of a client, attacked instead of updates that the audit computes.
        notes: sentences for the reader of the audit.
        noise: private message, drawn once by an audit, which tries to compute the noise. None if there is no noise, or
            its generator is cryptographic.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    loader: Iterable[Any] | None = None
    test: Iterable[Any] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    logits: Callable[[Any], Tensor] | None = None
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    local_steps: int = 1
    defenses: tuple[Mapping[str, Any], ...] = ()
    shape: tuple[int, ...] | None = None
    tokenizer: Any = None
    group: Grouping | None = None
    sampling: Sampling = "shuffle"
    reply: ClientReply | None = None
    views: LossOfViews | None = None
    heads: tuple[LabelHead, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()
    noise: NoisyMessage | None = None

    @property
    def rows_of_one(self) -> int:
        """Data rows per example: 2 for a pair of views, otherwise 1; they are sampled together."""
        return 1 if self.views is None else 2


@dataclass(frozen=True)
class CheckedSubject:
    """A validated subject.

    Attributes:
        model: a copy that returns a tensor and is never changed. Modules in evaluation mode stay in it.
        loss: the user's loss, or an equal loss of torch or fedsim.
        dataset: the client's examples as training set, the others as test set; both are empty without originals.
        notes: assumptions made about the subject, as sentences.
        groups: classes, and the user's grouping.
    """

    subject: Subject
    model: nn.Module
    loss: Loss
    dataset: Dataset
    notes: tuple[str, ...] = ()
    groups: tuple[ExampleGroups, ...] = (CLASSES,)

    def new_model(self) -> nn.Module:
        """Return a copy of the model."""
        return copy.deepcopy(self.model)

    @property
    def task(self) -> Task[Any]:
        """The task of the client's training."""
        return task_of(self.dataset)

    @property
    def is_cross_entropy(self) -> bool:
        """Whether the loss is cross-entropy, which defenses that change local steps assume."""
        return self.loss in (F.cross_entropy, cross_entropy)

    @property
    def is_scored(self) -> bool:
        """Whether the originals are known, so that guesses can be scored."""
        return len(self.dataset.train) > 0


def task_of(dataset: Dataset) -> Task[Any]:
    """Return the task of a dataset."""
    return Choice(name=dataset.task or usual_task(dataset), settings={}).make("task").fit_to_data(dataset)


def check_subject(subject: Subject, name: str) -> CheckedSubject:
    """Copy the model, read the data, and try a training step.

    Raises:
        FedsimError: a part has an unsupported type or shape, or the user's code raises; the message names it.
    """
    model = copy_model(subject.model, subject.logits, name)
    train, test, notes, values = _data(subject, name)
    subject, train, test = _with_classes(subject, train, test)
    read = _texts if train.inputs.dtype == torch.long and len(train) else _numbers
    loss, dataset, guessed = read(subject, model, train, test, name)
    task = task_of(dataset)
    why = task.refuses(dataset) or _strange_label(task, dataset)
    if why is not None:
        raise FedsimError(f"'{name}': {why}.")
    groups = (CLASSES,)
    if subject.group is not None and values:
        examples = Batch.concat([dataset.train, dataset.test])
        groups = (CLASSES, group_examples(subject.group, values, examples))
    return CheckedSubject(subject, model, loss, dataset, (*subject.notes, *modes(model), *notes, *guessed), groups)


def _numbers(
    subject: Subject, model: nn.Module, train: Batch, test: Batch, name: str
) -> tuple[Loss, Dataset, tuple[str, ...]]:
    """Return the loss, dataset and notes of a subject with images or rows."""
    shape = tuple(train.inputs.shape[1:]) if len(train) else _stated_shape(subject, name)
    mean, std, guessed = _statistics(subject, train.inputs, name)
    _check_loss(subject, train.labels, name)
    loss = subject.loss or F.cross_entropy
    probe = train if len(train) else Batch(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.long))
    probe_size = min(2 * subject.rows_of_one, len(probe))
    scores = scores_of(model, probe.select(torch.arange(probe_size)), name)
    train, test, probe = (
        replace(part, labels=convert_labels(part.labels, scores[0].numel())) for part in (train, test, probe)
    )
    outputs = outputs_in(scores, probe.labels, name)
    _check_classes((train, test), outputs, name)
    if has_numbers(scores, probe.labels):
        loss = loss if _is_cross_entropy(loss, outputs) else number_loss(loss, scores, probe.labels[: len(scores)])
        train, test, probe = (
            replace(part, labels=part.labels.reshape(-1, *scores.shape[1:])) for part in (train, test, probe)
        )
    try_step(model, loss, probe.select(torch.arange(len(scores))), name)
    dataset = Dataset(
        train,
        test,
        InputSpec(shape, outputs, mean, std, heads=subject.heads),
        tuple(map(str, range(outputs))),
        task="" if subject.views is None else "contrastive",
    )
    if not are_classes(probe.labels):
        task = _task_of_targets(dataset, name)
        if isinstance(task, NumberTask) and probe.labels[0].numel() != scores[0].numel():
            raise FedsimError(
                f"the model of '{name}' returns {scores[0].numel()} numbers for each example, and the loader yields "
                f"{probe.labels[0].numel()}. Give both as many; Subject(logits=...) chooses among the model's numbers."
            )
        if (
            task.label_kind == "numbers"
            and _has_class_targets(subject, probe.labels)
            and are_probabilities(probe.labels)
        ):
            guessed = (*guessed, "Labels are class probabilities: attacks and defenses that need classes are left out.")
        return loss, replace(dataset, task=task.name), (*guessed, f"Accuracy is {task.accuracy_in_words}.")
    return F.cross_entropy if _is_cross_entropy(loss, outputs) else loss, dataset, guessed


def _with_classes(subject: Subject, train: Batch, test: Batch) -> tuple[Subject, Batch, Batch]:
    """Replace one-hot labels of cross-entropy, also those of a captured reply, by classes (B,)."""
    batches = () if subject.reply is None else subject.reply.batches
    parts = [part for part in (train, test, *batches) if len(part)]
    if not parts or not all(_has_class_targets(subject, part.labels) and are_one_hot(part.labels) for part in parts):
        return subject, train, test
    train, test, *batches = (replace(part, labels=part.labels.argmax(-1)) for part in (train, test, *batches))
    reply = None if subject.reply is None else replace(subject.reply, batches=tuple(batches))
    loss = None if subject.loss is None else OneHotLoss(subject.loss, parts[0].labels.shape[1])
    return replace(subject, loss=loss, reply=reply), train, test


def _has_class_targets(subject: Subject, labels: Tensor) -> bool:
    """Return whether the loss of labels (B, K) of a single head is cross-entropy, with or without class weights."""
    if subject.heads or labels.ndim != _ROWS:
        return False
    if subject.loss is None or isinstance(subject.loss, nn.CrossEntropyLoss):
        return True
    return callable(subject.loss) and _is_cross_entropy(subject.loss, labels.shape[1])


def _texts(
    subject: Subject, model: nn.Module, train: Batch, test: Batch, name: str
) -> tuple[Loss, Dataset, tuple[str, ...]]:
    """Return the loss, dataset and notes of a subject with texts."""
    _check_loss(subject, train.labels, name)
    loss, (first, *_) = subject.loss or cross_entropy, train.split(2)
    scores = scores_of(model, first, name)
    classes = outputs_in(scores, first.labels, name)
    _check_classes((train, test), classes, name)
    try_step(model, loss, first, name)
    dataset = texts.dataset_of(train, test, model, classes, subject.tokenizer, name)
    is_plain = subject.loss is None or (train.labels.ndim == 1 and _is_cross_entropy(loss, classes))
    notes = ()
    if dataset.train.extra_inputs:
        names = " and ".join(sorted(dataset.train.extra_inputs))
        notes = (f"The attacker knows the model's inputs besides the tokens ({names}) only with --knows extra-inputs.",)
    return cross_entropy if is_plain else loss, dataset, notes


def _check_loss(subject: Subject, labels: Tensor, name: str) -> None:
    """Check that the loss is callable, and present if labels are numbers.

    Raises:
        FedsimError: it is no function, a class instead of an instance, or missing where labels are numbers.
    """
    loss = cast("Any", subject.loss)
    if isinstance(loss, type):
        raise FedsimError(f"the loss of '{name}' is the class {loss.__name__}, expected {loss.__name__}().")
    if loss is not None and not callable(loss):
        raise FedsimError(
            f"the loss of '{name}' is of type {type(loss).__name__}, expected a function of scores and labels, or None "
            "for cross-entropy."
        )
    if loss is None and labels.is_floating_point() and labels.ndim == 1:
        raise FedsimError(
            f"the labels of '{name}' are numbers, and without a loss the client learns classes by cross-entropy. Give "
            "the loss too, such as nn.MSELoss()."
        )


def _data(subject: Subject, name: str) -> tuple[Batch, Batch, tuple[str, ...], list[Any]]:
    """Return the client's examples, the test examples, notes on assumptions, and the group values of all examples."""
    if subject.loader is None:
        nothing = Batch(torch.empty(0), torch.empty(0, dtype=torch.long))
        return nothing, nothing, ("Originals are missing, so guesses are shown but not scored.",), []
    read = partial(_read, model=subject.model, group=subject.group)
    loader_name = f"the loader of '{name}'"
    if subject.test is not None:
        (train, values), (test, test_values) = (
            read(subject.loader, loader_name),
            read(subject.test, f"the test loader of '{name}'"),
        )
        return train, test, (), values + test_values
    examples, values = read(subject.loader, loader_name, least=2)
    train, test_examples = examples.split((len(examples) + 1) // 2)
    note = f"No test data were given, so the last {len(test_examples)} of {len(examples)} examples serve as test data."
    return train, test_examples, (note,), values


def _read(
    loader: Iterable[Any], subject: str, model: nn.Module, group: Grouping | None, least: int = 1
) -> tuple[Batch, list[Any]]:
    """Return the first examples of a loader, at most `MOST_EXAMPLES`, and their group values."""
    batches, values = list[Batch](), list[Any]()
    try:
        with seeding.isolate_randomness(0):
            for item in (texts.as_mapping(item, model) for item in loader):
                batches.append(texts.batch_of(item, subject) if texts.is_text(item) else Batch(*pair_of(item, subject)))
                values += [] if group is None else values_of(group, item, batches[-1], subject)
                if sum(map(len, batches)) >= MOST_EXAMPLES:
                    break
        rows = _first(batches, texts.padding_of(model))
    except FedsimError:
        raise
    except Exception as error:
        raise FedsimError(f"{subject} failed: {reason(error)}.") from error
    if rows is None or len(rows) < least:
        raise FedsimError(f"{subject} yields {0 if rows is None else len(rows)} examples, expected at least {least}.")
    if rows.inputs.is_floating_point() and not bool(rows.inputs.isfinite().all()):
        raise FedsimError(f"{subject} yields images with values that are not finite.")
    return rows, values[: len(rows)]


def _first(batches: list[Batch], padding: int) -> Batch | None:
    """Return at most `MOST_EXAMPLES` examples of some batches, joined; None without batches."""
    if not batches:
        return None
    whole = Batch.concat(batches) if batches[0].inputs.is_floating_point() else texts.concat_texts(batches, padding)
    return next(whole.split(MOST_EXAMPLES))


def _stated_shape(subject: Subject, name: str) -> tuple[int, ...]:
    if subject.shape is None:
        raise FedsimError(f"'{name}' returned no loader: give Subject(shape=(channels, height, width)) instead.")
    return subject.shape


def _statistics(
    subject: Subject, images: Tensor, name: str
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Return mean and standard deviation for pixels in [0, 1], and a note if they are estimated."""
    channels = images.shape[1] if len(images) else _stated_shape(subject, name)[0]
    if subject.mean is not None and subject.std is not None:
        if len(subject.mean) != channels or len(subject.std) != channels or min(subject.std) <= 0:
            raise FedsimError(
                f"'{name}': mean and std need {channels} numbers each, a number per channel, with std above 0."
            )
        return tuple(subject.mean), tuple(subject.std), ()
    if not len(images):
        return (0.0,) * channels, (1.0,) * channels, ()
    dimensions = (0, *range(2, images.ndim))
    low, high = images.amin(dimensions), images.amax(dimensions)
    if bool((low >= 0).all()) and bool((high <= 1).all()):
        return (0.0,) * channels, (1.0,) * channels, ()
    width = (high - low).clamp_min(1e-6)
    note = (
        "Images are not in [0, 1], and no mean and std were given, so the smallest and the largest value of a "
        "channel count as pixels of 0 and 1."
        if images.ndim >= _IMAGES
        else "The smallest and the largest value of each column are public."
    )
    return tuple((-low / width).tolist()), tuple((1.0 / width).tolist()), (note,)


def _task_of_targets(dataset: Dataset, name: str) -> TargetTask[Any]:
    """Return the task of labels that are not classes.

    Raises:
        FedsimError: no task supports them.
    """
    task, labels = task_of(dataset), dataset.train.labels
    if isinstance(task, TargetTask):
        return cast("TargetTask[Any]", task)
    raise FedsimError(
        f"'{name}' has labels {labels.dtype} of shape {tuple(labels.shape)} for examples of "
        f"shape {dataset.spec.shape}, which no task supports. Supported are a class (B,), "
        "numbers (B,) or (B, K), 0 and 1 (B, K), classes of pixels (B, H, W), masks of 0 and 1 "
        "(B, K, H, W), numbers after a series, and several of these by name. For two views of "
        "an example use Subject(views='halves'), or 'stacked' (docs/audit.md). Boxes of "
        "varying number would need a task for a grid (docs/adding-a-task.md)."
    )


def _check_classes(parts: Iterable[Batch], classes: int, name: str) -> None:
    """Check that every class label has a score.

    Raises:
        FedsimError: a label exceeds the largest class.
    """
    labels = [part.labels for part in parts if len(part) and not part.labels.is_floating_point()]
    greatest = max((int(label.max()) for label in labels), default=0)
    if greatest >= classes and all(map(are_classes, labels)):
        raise FedsimError(f"'{name}': a label is {greatest}, but the model scores classes 0 to {classes - 1}.")


def _strange_label(task: Task[Any], dataset: Dataset) -> str | None:
    """Return a clause about a label that the task rejects, or None."""
    labels = [batch.labels for batch in (dataset.train, dataset.test) if len(batch)]
    return next(filter(None, (task.refuses_labels(part, dataset.spec) for part in labels)), None)


def _is_cross_entropy(loss: Loss, classes: int) -> bool:
    """Return whether a user's loss equals cross-entropy; False if it rejects scores of the tested shape."""
    try:
        return is_cross_entropy(loss, (_TRIED, classes))
    except Exception:
        return False
