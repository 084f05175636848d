"""Multi-head: a model makes several predictions for every image or row: classes, sets, numbers, masks.

    loss = sum over the heads of weight * loss of the head: cross-entropy, binary cross-entropy, or squared error

The labels of all heads are concatenated, (B, L), and so are the outputs, (B, K), in the order of `InputSpec.heads`.
Test metric: the share of correct labels. Guesses are scored as images or rows, and additionally by the share of each
head's labels that were recovered, with the baseline of a guess from public labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Self, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset, InputSpec, LabelHead, LabelKind, slice_heads
from fedsim.core.types.tasks import Model
from fedsim.metrics import targets as metrics
from fedsim.metrics.testing import test_accuracy
from fedsim.tasks.core.targets import TargetScore, TargetTask

_NEAR = 0.5  # standard deviations within which a number counts as right


class MultiHeadConfig(Config):
    """Settings of several heads."""

    weights: dict[str, float] = Field(default={}, description="of the losses, by the names of heads; 1 where not named")


@final
@task("multi-head", summary="several things at once, for every image or row")
class MultiHead(TargetTask[MultiHeadConfig]):
    """Sum of the losses of all heads."""

    label_kind: ClassVar[LabelKind] = "heads"
    heads: tuple[LabelHead, ...] = ()

    def fit_to_data(self, data: Dataset) -> Self:
        """Return the task with the heads of the data."""
        made = type(self)(self.config).with_name(self.name)
        made.heads = data.spec.heads
        return made

    def refuses(self, data: Dataset) -> str | None:
        """Return why no head is named, or labels and heads disagree, or None."""
        heads, labels = data.spec.heads, data.train.labels
        if data.spec.vocabulary is not None or not heads:
            return "it needs images or rows of a data set with several heads"
        if strangers := sorted(set(self.config.weights) - {head.name for head in heads}):
            return f"weights name '{strangers[0]}', and the heads are {', '.join(head.name for head in heads)}"
        wanted = (sum(head.labels for head in heads), sum(head.outputs for head in heads))
        if labels.shape[1:] != wanted[:1] or data.spec.classes != wanted[1]:
            shape = tuple(labels.shape)
            return f"its heads have {wanted[0]} labels and {wanted[1]} outputs, and labels have shape {shape}"
        return None

    def refuses_labels(self, labels: Tensor, spec: InputSpec) -> str | None:
        """Return which head has an invalid label, or None."""
        return next(
            filter(None, (_explain_refusal(head, labels[:, place]) for head, place, _ in slice_heads(spec.heads))), None
        )

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return the concatenated outputs' shape."""
        return (len(labels), spec.classes)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, the sum over the heads."""
        head_losses = [
            self.config.weights.get(head.name, 1.0) * _losses(head, outputs[:, scores], targets[:, labels])
            for head, labels, scores in slice_heads(self.heads)
        ]
        return torch.stack(head_losses).sum(0)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the share of correct labels on the test set."""
        right = torch.cat(self._right_labels(self.outputs_of(model, data), data.test.labels, data), 1)
        return {"test_accuracy": test_accuracy(right, torch.ones_like(right))}

    def right(self, outputs: Tensor, labels: Tensor, data: Dataset) -> Tensor:
        """Return the share of an example's correct labels; a number is correct within half a standard deviation."""
        return torch.stack([is_right.double().mean(1) for is_right in self._right_labels(outputs, labels, data)]).mean(
            0
        )

    def _right_labels(self, outputs: Tensor, labels: Tensor, data: Dataset) -> list[Tensor]:
        """Return which labels of each head are correct, shape (B, labels)."""
        std = metrics.spread(data)[1]
        return [
            _are_right(head, _answer(head, outputs[:, scores]), labels[:, place], _NEAR * std[place])
            for head, place, scores in slice_heads(self.heads)
        ]

    def usual_answer(self, data: Dataset) -> Tensor:
        """Return the logits of the most frequent classes and labels, and the mean numbers."""
        usual = _usual(data)
        return torch.cat([_scores_of(head, usual[place]) for head, place, _ in slice_heads(self.heads)])[None]

    def target_score(self, data: Dataset) -> TargetScore:
        """Return a scorer of the labels of all heads, with the most frequent labels as baseline."""
        return partial(_scores, self.heads, _usual(data), metrics.ROUNDING * metrics.spread(data)[1])


def _explain_refusal(head: LabelHead, labels: Tensor) -> str | None:
    if head.kind == "numbers":
        return None if bool(labels.isfinite().all()) else f"a label of head '{head.name}' is not finite"
    largest = 1 if head.kind == "set" else head.classes - 1
    strangers = labels[(labels < 0) | (labels > largest) | (labels != labels.round())]
    return f"label {float(strangers[0]):g} of head '{head.name}' is none of 0 to {largest}" if len(strangers) else None


def _losses(head: LabelHead, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of a head for each example, the mean over its labels."""
    match head.kind:
        case "numbers":
            return (outputs - labels).square().mean(1)
        case "set":
            return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="none").mean(1)
        case _:
            scores = outputs.unflatten(1, (head.classes, head.labels))
            return F.cross_entropy(scores, labels.long(), reduction="none").mean(1)


def _answer(head: LabelHead, outputs: Tensor) -> Tensor:
    """Return the predictions of a head, shape (B, labels)."""
    match head.kind:
        case "numbers":
            return outputs
        case "set":
            return (outputs > 0).to(outputs.dtype)
        case _:
            return outputs.unflatten(1, (head.classes, head.labels)).argmax(1).to(outputs.dtype)


def _scores_of(head: LabelHead, labels: Tensor) -> Tensor:
    """Return outputs (outputs,) of a head with these labels (labels,) as prediction."""
    match head.kind:
        case "numbers":
            return labels
        case "set":
            return labels - 0.5
        case _:
            return F.one_hot(labels.long(), head.classes).T.flatten().to(labels)


def _are_right(head: LabelHead, guess: Tensor, labels: Tensor, width: Tensor) -> Tensor:
    """Return which guessed labels are correct; numbers within a width."""
    if head.kind == "numbers":
        return (guess.double() - labels.double()).abs() <= width.double()
    return guess.double() == labels.double()


def _usual(data: Dataset) -> Tensor:
    """Return the mean of numbers and the mode of all other public labels, shape (L,)."""
    labels = data.train.labels
    usual = [
        part.double().mean(0) if head.kind == "numbers" else part.double().mode(0).values
        for head, part in ((head, labels[:, place]) for head, place, _ in slice_heads(data.spec.heads))
    ]
    return torch.cat(usual)


def _scores(
    heads: tuple[LabelHead, ...], usual: Tensor, width: Tensor, guess: Tensor, target: Tensor
) -> Mapping[str, float]:
    places = [(head, place) for head, place, _ in slice_heads(heads)]
    read, guessed = (
        [_are_right(head, scores[place], target[place], width[place]).double().mean() for head, place in places]
        for scores in (guess, usual)
    )
    return {
        "heads_read": metrics.heads_read(torch.stack(read)),
        "heads_guessed": metrics.heads_guessed(torch.stack(guessed)),
    }
