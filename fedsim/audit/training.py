"""A short training from the audited weights, for membership attacks and the cost of defenses."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.audit.record import Training
from fedsim.audit.texts import chance
from fedsim.core.losses import IGNORED
from fedsim.core.seeding import derive
from fedsim.core.types import Memory, Tensors, Truth, Update, WireEntry
from fedsim.federation.client import local_training
from fedsim.federation.journal import Journal
from fedsim.metrics.statistics import mean_interval
from fedsim.record import Interval, RoundRecord
from fedsim.scenario.world import World

_PIECE = 256
_FEWEST_ROUNDS = 2


@dataclass(frozen=True)
class Trained:
    """A client that was trained.

    Attributes:
        journal: holds the update of every round.
        truths: private side of each update.
        correct: share of right answers on each test example at the end, shape (test set,): 0 or 1 of an image.
        summary: summary for the record.
    """

    journal: Journal
    truths: tuple[Truth, ...]
    correct: Tensor
    summary: Training


def trained(world: World, rounds: int, seconds: float) -> Trained:
    """Train for this many rounds, or as many as fit the time, at least two."""
    journal, truths = Journal(lambda _record: None), list[Truth]()
    memory: Memory = {}
    state: dict[str, Tensor] = {}
    weights: Tensors = {name: tensor.clone() for name, tensor in world.models.first_weights.items()}
    begin = time.monotonic()
    for round_ in range(1, rounds + 1):
        update, truth = local_training(world, weights, round_, 0, memory)
        journal.wire(WireEntry(round_, 0, weights, update))
        truths.append(truth)
        weights = moved(world, weights, update, state)
        journal.model(round_, weights)
        journal.round(RoundRecord(round=round_, cohort=(0,), participants=(0,), training_loss=update.loss))
        spent = time.monotonic() - begin
        if round_ >= _FEWEST_ROUNDS and spent + spent / round_ > seconds:
            break
    rounds, spent = len(truths), time.monotonic() - begin
    journal.end(weights)
    correct, loss = evaluate(world, weights)
    summary = Training(
        rounds=rounds,
        batch_size=world.scenario.federation.batch_size,
        test_examples=len(correct),
        accuracy=float(correct.double().mean()),
        guessing=chance(world.data.dataset.test.labels),
        loss=loss,
        seconds_a_round=spent / rounds,
    )
    return Trained(journal, tuple(truths), correct, summary)


def evaluate(world: World, weights: Tensors) -> tuple[Tensor, float]:
    """Return the share of right answers of each test example, shape (test set,), and the mean loss."""
    model, test = world.models.holding(weights).eval(), world.data.dataset.test
    correct: list[Tensor] = []
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(test), _PIECE):
            piece = test.taken(torch.arange(start, min(start + _PIECE, len(test))))
            labels = piece.labels
            scores = model(piece.inputs, **piece.given)
            correct.append(_right(scores, labels))
            total += float(world.stack.criterion(scores, labels)) * len(labels)
    return torch.cat(correct), total / len(test)


def _right(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the share of an example's labels that a model finds; an image has one, a text one for every token."""
    known, right = labels != IGNORED, (scores.argmax(-1) == labels).double()
    if labels.ndim == 1:
        return right
    return (right * known).sum(1) / known.sum(1).clamp_min(1)


def accuracy_lost(without: Tensor, with_: Tensor, seed: int) -> Interval:
    """Return the accuracy that a defense costs, with a paired bootstrap interval over test examples."""
    lost = without.double() - with_.double()
    return mean_interval([[value] for value in lost.tolist()], np.random.default_rng(derive(seed, "bootstrap")))


def moved(world: World, weights: Tensors, update: Update, state: dict[str, Tensor]) -> Tensors:
    """Return the server's next weights: a step along a gradient, or minus a change of weights."""
    found = {name: tensor.clone() for name, tensor in weights.items()}
    if update.kind == "gradient":
        world.stack.server_optimizer.step({name: found[name] for name in update.tensors}, update.tensors, state)
    else:
        found.update({name: weights[name] - own for name, own in update.tensors.items()})
    return found | {name: weights[name] - own for name, own in update.buffers.items()}
