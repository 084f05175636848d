"""Seats at a cut, and how many labels an attack reads there."""

from typing import Any

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.questions.vertical.observe import Sizes, SplitFederation, labels_view
from fedsim.questions.vertical.types import CutKnowledge, CutStep, CutView
from tests.questions.vertical.splitting import split_federation

EVERYTHING: frozenset[CutKnowledge] = frozenset({"top", "few-labels"})


def seat(federation: SplitFederation, epoch: int = 1, sizes: Sizes = (200, 1)) -> tuple[CutView, Tensor]:
    """Return party a's view of an epoch, and the labels of its rows."""
    run = federation.run()
    view = labels_view(federation, run, "a", epoch, EVERYTHING, sizes)
    return view, run.labels[view.rows]


def trained_seat(epoch: int = 1, **settings: Any) -> tuple[CutView, Tensor]:
    """Return party a's view of one epoch of a small federation, and the labels of its rows."""
    return seat(split_federation(watched=(epoch,), **settings), epoch)


def made_seat(gradients: Tensor, labels: Tensor, classes: int = 2) -> CutView:
    """Return a view of one step with these gradients, in which the first example of each class is known."""
    known = torch.stack([(labels == label).nonzero()[0, 0] for label in range(classes)])
    rows = torch.arange(len(labels))
    return CutView(
        party="a", place=(0, gradients.shape[1]), classes=classes, shape=(3,), rows=rows,
        steps=[CutStep(rows, {}, {"a": gradients})], known_rows=known, labels=labels[known],
    )  # fmt: skip


def guessed(name: str, view: CutView, **settings: Any) -> Tensor:
    """Return the classes that an attack reads."""
    method = registry.get("attack", name)
    attack = method.make(method.config.model_validate(settings))
    return attack(view, torch.Generator().manual_seed(3)).argmax(1)
