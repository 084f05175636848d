"""Select the task of a data set that names none, and check data sets against tasks."""

from __future__ import annotations

import inspect

from torch import nn

from fedsim.core import registry
from fedsim.core.nets.losses import are_classes, are_tokens
from fedsim.core.types import Dataset
from fedsim.core.types.tasks import Task

WINDOW = 2  # dimensions of a window of a series: (channels, times) or (times, channels)
QUESTION = "question"  # key of the question about an image


def usual_task(data: Dataset) -> str:
    """Return the name of the task of a data set that names none.

    If labels are not classes, it is the first task of such labels that accepts the data set.
    """
    if data.similarities is not None:
        return "sentence-embedding"
    if data.spec.vocabulary is None and QUESTION in data.train.extra_inputs:
        return "visual-question-answering"
    if data.spec.vocabulary is None and (special := _task_of_targets(data)):
        return special
    if data.spec.vocabulary is None:
        return "tabular" if len(data.spec.shape) <= WINDOW else "classification"
    if data.spec.classes == data.spec.vocabulary:
        return "next-token"
    return "tagging" if are_tokens(data.train.labels) else "text-classification"


def _task_of_targets(data: Dataset) -> str:
    """Return the task of labels that are not classes of examples; empty for classes, or if no task accepts them.

    This imports every task, so classes are checked first.
    """
    if are_classes(data.train.labels):
        return ""
    for name in sorted(registry.methods("task")):
        method = registry.methods("task")[name]
        kind = method.derived_from(Task)
        if kind is not None and kind.label_kind != "class" and method.make(method.config()).refuses(data) is None:
            return name
    return ""


def refuses_inputs(data: Dataset, *, tokens: bool) -> str | None:
    """Return why inputs are not of the required type (tokens or numbers), or have several heads, or None."""
    if data.spec.heads:
        return "the model has a single head; labels of several heads need task 'multi-head'"
    if (data.spec.vocabulary is not None) is tokens:
        return None
    read, held = ("tokens", "numbers") if tokens else ("numbers", "tokens")
    return f"it reads {read}, and the examples are {held}"


def lacks_argument(model: nn.Module, name: str) -> bool:
    """Return whether a model's forward accepts no argument of this name."""
    parameters = inspect.signature(model.forward).parameters
    return name not in parameters and all(
        parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def refuses_shape(data: Dataset) -> str | None:
    """Return why the examples are not images (channels, height, width), or have questions, or None."""
    if QUESTION in data.train.extra_inputs:
        return "the model's input is an image, and the data add a question to each image"
    if data.spec.is_image:
        return None
    return f"it needs images (channels, height, width) or volumes, and an example has shape {data.spec.shape}"


def refuses_classes(data: Dataset, *, of_tokens: bool) -> str | None:
    """Return why labels are not classes, of every token or of every example, or None."""
    labels = data.train.labels
    if labels.is_floating_point():
        return "it needs classes as labels, and they are numbers with a fraction"
    if (labels.dim() > 1) is of_tokens:
        return None
    whole = "token" if of_tokens else "example"
    return f"it needs a label for every {whole}, and labels have shape {tuple(labels.shape)}"


def refuses_words(data: Dataset) -> str | None:
    """Return why examples are not tokens with token labels, or None."""
    why = refuses_inputs(data, tokens=True) or refuses_classes(data, of_tokens=True)
    if why is None and data.spec.classes != data.spec.vocabulary:
        return (
            f"it needs tokens as labels, {data.spec.vocabulary} of them, and the data have {data.spec.classes} classes"
        )
    return why
