"""Short training from the audited weights, for membership attacks, planted secrets and the cost of defenses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.audit.record import Training
from fedsim.audit.texts import chance
from fedsim.core.nets.losses import IGNORED
from fedsim.core.seeding import derive
from fedsim.core.time_budget import TimeBudget
from fedsim.core.types import Memory, Tensors, Truth, Update, WireEntry
from fedsim.federation.client import local_training
from fedsim.federation.journal import ServerLog
from fedsim.federation.stepping import apply_server_step
from fedsim.metrics.statistics import mean_interval
from fedsim.questions.base import Evidence
from fedsim.record import Interval, RoundRecord
from fedsim.scenario.world import World
from fedsim.tasks.core.targets import TargetTask
from fedsim.threat.replay import Replay

_PIECE = 256
_FEWEST_ROUNDS = 2


@dataclass(frozen=True)
class AuditRound:
    """A client's update in a round, its ground truth, and the server's weights after it."""

    entry: WireEntry
    truth: Truth
    weights: Tensors

    @property
    def record(self) -> RoundRecord:
        """The record of the round."""
        number, loss = self.entry.round, self.entry.update.loss
        return RoundRecord(round=number, cohort=(0,), participants=(0,), training_loss=loss)


@dataclass(frozen=True)
class TrainedClient:
    """A trained client.

    Attributes:
        evidence: the server's observations, with the ground truth.
        correct: share of correct labels of each test example, shape (test set,): 0 or 1 for an image.
        summary: summary for the record.
    """

    evidence: Evidence
    correct: Tensor
    summary: Training


def rounds_of(world: World) -> Iterator[AuditRound]:
    """Yield the rounds of an endless training of the only client."""
    memory: Memory = {}
    state: dict[str, Tensor] = {}
    weights: Tensors = world.models.first_weights
    for number in itertools.count(1):
        update, truth = local_training(world, weights, number, 0, memory)
        combined = world.models.layout.flat(update.tensors, update.buffers)
        after = apply_server_step(world, weights, combined, state, number)
        yield AuditRound(WireEntry(number, 0, weights, update), truth, after)
        weights = after


def train(world: World, rounds: int, seconds: float) -> TrainedClient:
    """Train for this many rounds, or as many as fit the time, but at least two."""
    journal, replays = ServerLog(lambda _record: None), list[Replay]()
    budget, spent = TimeBudget(), 0.0
    for round_ in itertools.islice(rounds_of(world), rounds):
        _keep(journal, round_)
        replays.append(
            Replay(round_.truth, matches=True, raw_is_wire=_is_raw(round_.truth, round_.entry.update), costs=())
        )
        spent = budget.used
        if len(replays) >= _FEWEST_ROUNDS and spent + spent / len(replays) > seconds:
            break
    correct, loss = evaluate(world, journal.weights)
    summary = Training(
        rounds=len(replays),
        batch_size=world.scenario.federation.batch_size,
        test_examples=len(correct),
        accuracy=float(correct.double().mean()),
        majority_accuracy=_majority_accuracy(world),
        loss=loss,
        seconds_a_round=spent / len(replays),
    )
    return TrainedClient(Evidence(world, journal, replays), correct, summary)


def _keep(journal: ServerLog, round_: AuditRound) -> None:
    journal.wire(round_.entry)
    journal.model(round_.entry.round, round_.weights)
    journal.round(round_.record)
    journal.end(round_.weights)


def _is_raw(truth: Truth, sent: Update) -> bool:
    return all(torch.equal(tensor, sent.tensors[name]) for name, tensor in truth.raw.tensors.items())


def evaluate(world: World, weights: Tensors) -> tuple[Tensor, float]:
    """Return the share of correct labels of each test example, shape (test set,), and the mean loss."""
    model, test = world.models.load_weights(weights).eval(), world.data.dataset.test
    correct: list[Tensor] = []
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(test), _PIECE):
            piece = test.select(torch.arange(start, min(start + _PIECE, len(test))))
            labels = piece.labels
            scores = model(piece.inputs, **piece.extra_inputs)
            correct.append(_right(world, scores, labels))
            total += float(world.stack.criterion(scores, labels)) * len(labels)
    return torch.cat(correct), total / len(test)


def _right(world: World, scores: Tensor, labels: Tensor) -> Tensor:
    """Return the share of correct labels per example: a single label of an image, a label per token of a text."""
    if isinstance(world.task, TargetTask):
        return world.task.right(scores, labels, world.data.dataset).double()
    known, right = labels != IGNORED, (scores.argmax(-1) == labels).double()
    if labels.ndim == 1:
        return right
    return (right * known).sum(1) / known.sum(1).clamp_min(1)


def _majority_accuracy(world: World) -> float:
    """Return the accuracy of always predicting the most frequent answer."""
    task, data = world.task, world.data.dataset
    if not isinstance(task, TargetTask):
        return chance(data.test.labels)
    usual = task.usual_answer(data)
    return float(task.right(usual.expand(len(data.test), *usual.shape[1:]), data.test.labels, data).double().mean())


def accuracy_lost(undefended: Tensor, with_: Tensor, seed: int) -> Interval:
    """Return the accuracy lost by a defense, with a paired bootstrap interval over test examples."""
    lost = undefended.double() - with_.double()
    return mean_interval([[value] for value in lost.tolist()], np.random.default_rng(derive(seed, "bootstrap")))
