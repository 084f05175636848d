"""Accuracy of a vision-language model on each kind of question about unseen grids of digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.types import Batch
from fedsim.data._grid_words import KINDS, GridWords, Kind
from fedsim.data.digit_grids import DigitGridsConfig, draw_grids, stocks
from fedsim.metrics.statistics import Interval, wilson
from fedsim.tasks.visual_question_answering import are_right

MEASURED: tuple[Kind, ...] = ("position", "presence", "counting")
CELLS = 4
_AT_ONCE = 250


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a model on a kind of question.

    Attributes:
        kind: kind of question.
        right: share of correct answers, with 95 % confidence interval.
        blind: the same with all pixels set to 0.
        majority: share of the most frequent answer.
        repeated_digits: for counting questions, accuracy if the digit occurs more than once; else None.
    """

    kind: Kind
    right: Interval
    blind: Interval
    majority: float
    repeated_digits: Interval | None


def questions(kind: Kind, count: int, seed: int) -> Batch:
    """Sample `count` questions of a kind about images of test digits.

    Images use all ten digits; for counting questions, a palette of 1 to 6 digits.
    """
    weights = {name: float(name == kind) for name in KINDS}
    config = DigitGridsConfig.model_validate({"palette": float(kind == "counting"), **weights})
    return draw_grids(config, count, stocks(config.source)[1], seeding.generator(seed, f"testing {kind}"))[0]


@torch.no_grad()
def right_answers(model: nn.Module, batch: Batch) -> Tensor:
    """Return which questions a model answers correctly, (N,)."""
    method = registry.get("task", "visual-question-answering")
    task = method.make(method.config())
    answers = [are_right(task.outputs(model, chunk, {}).argmax(-1), chunk.labels) for chunk in batch.split(_AT_ONCE)]
    return torch.cat(answers)


def accuracy(model: nn.Module, kind: Kind, count: int, seed: int) -> Accuracy:
    """Evaluate a model on a kind of question."""
    batch = questions(kind, count, seed)
    is_right = right_answers(model, batch)
    blind = right_answers(model, Batch(torch.zeros_like(batch.inputs), batch.labels, batch.extra_inputs))
    first = batch.labels[:, 0]
    repeated = first > GridWords(CELLS).of("n1")
    return Accuracy(
        kind,
        share(is_right.tolist()),
        share(blind.tolist()),
        float(first.bincount().max()) / len(first),
        share(is_right[repeated].tolist()) if kind == "counting" else None,
    )


def share(right: Sequence[bool]) -> Interval:
    """Return a share with its confidence interval."""
    return wilson(sum(right), len(right))
