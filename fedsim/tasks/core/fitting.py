"""Which task a data set is for, where it names none, and which kinds of labels a task takes."""

from __future__ import annotations

import inspect

from torch import nn

from fedsim.core import registry
from fedsim.core.losses import are_classes, are_tokens
from fedsim.core.types import Dataset
from fedsim.core.types.tasks import Task

QUESTION = "question"  # what is given beside an image that is asked about


def usual_task(data: Dataset) -> str:
    """Return the name of the task of a data set that names none.

    Where labels are more than classes, it is the first task of such labels that takes them.
    """
    if data.similarities is not None:
        return "sentence-embedding"
    if data.spec.vocabulary is None and QUESTION in data.train.given:
        return "visual-question-answering"
    if data.spec.vocabulary is None and (special := _task_of_targets(data)):
        return special
    if data.spec.vocabulary is None:
        return "tabular" if len(data.spec.shape) == 1 else "classification"
    if data.spec.classes == data.spec.vocabulary:
        return "next-token"
    return "tagging" if are_tokens(data.train.labels) else "text-classification"


def _task_of_targets(data: Dataset) -> str:
    """Return the task of labels that are no classes of whole examples; empty where they are, or none takes them.

    Every task is imported for that, so classes are told first.
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
    """Say whether examples are not what a task reads, token numbers or else numbers, or labels are of several heads."""
    if data.spec.heads:
        return "it has one head, and labels of several have the task 'multi-head'"
    if (data.spec.vocabulary is not None) is tokens:
        return None
    read, held = ("tokens", "numbers") if tokens else ("numbers", "tokens")
    return f"it reads {read}, and the examples are {held}"


def lacks_argument(model: nn.Module, name: str) -> bool:
    """Say whether a model's forward takes no argument of this name."""
    parameters = inspect.signature(model.forward).parameters
    return name not in parameters and all(
        parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def refuses_shape(data: Dataset) -> str | None:
    """Say whether the examples are no images (channels, height, width), or are asked about."""
    if QUESTION in data.train.given:
        return "it reads images alone, and a question stands beside each of these"
    if data.spec.is_image:
        return None
    return f"it needs images (channels, height, width) or volumes, and an example has shape {data.spec.shape}"


def refuses_classes(data: Dataset, *, of_tokens: bool) -> str | None:
    """Say whether labels are no classes, of every token or else of every example."""
    labels = data.train.labels
    if labels.is_floating_point():
        return "it needs classes as labels, and they are numbers with a fraction"
    if (labels.dim() > 1) is of_tokens:
        return None
    whole = "token" if of_tokens else "example"
    return f"it needs a label for every {whole}, and labels have shape {tuple(labels.shape)}"


def refuses_words(data: Dataset) -> str | None:
    """Say whether examples are no tokens with one label each, or labels are no tokens."""
    why = refuses_inputs(data, tokens=True) or refuses_classes(data, of_tokens=True)
    if why is None and data.spec.classes != data.spec.vocabulary:
        return f"it needs tokens as labels, {data.spec.vocabulary} of them, and there are {data.spec.classes} classes"
    return why
