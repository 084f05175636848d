"""Observation of membership inference, and shadow models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Generator, Tensor, nn

from fedsim.core.types.basics import Loss, Tensors
from fedsim.core.types.data import Batch
from fedsim.core.types.tasks import Task
from fedsim.core.types.updates import Update

Target = Literal["model", "update"]  # target of a membership attack: the trained model, or a client's updates


TrainShadow = Callable[[Batch, Generator], Tensors]


@dataclass(frozen=True)
class ShadowPlan:
    """Shadow models that a membership attack requires; attacks with equal plans share them.

    Attributes:
        count: number of models, even: each example of the pool is in the training set of exactly half of them.
        with_candidates: whether the pool contains the candidates besides the attacker's reference examples.
    """

    count: int
    with_candidates: bool


@dataclass(frozen=True)
class Shadow:
    """A shadow model, trained by the attacker, and its training set.

    Attributes:
        weights: its state dict.
        candidates: which candidates were in its training set, boolean, shape (N,).
        reference: which reference examples were in its training set, boolean, shape (R,).
    """

    weights: Tensors
    candidates: Tensor
    reference: Tensor


@dataclass(frozen=True)
class WatchedUpdate:
    """A client's update as sent, and the weights at which it was computed."""

    round: int
    received_weights: Tensors
    update: Update


@dataclass(frozen=True)
class MembershipObservation:
    """Observation of a membership attack. Built only in `fedsim.questions.membership.observe`.

    It holds no reference to the training set or to the membership labels.

    Attributes:
        candidates: N examples, members and non-members in shuffled order.
        reference: R further examples of the attacker, neither training examples nor candidates.
        model: the architecture with the final weights, in evaluation mode.
        loss: the client's loss, ``loss(outputs, labels) -> scalar``.
        weights: (round, state dict) of the global model after each watched round and after the last, ascending.
        updates: one client's updates in the watched rounds, ascending; empty for attacks on the model.
        train_shadow: trains a model on given examples, similar to the federation's training.
        shadows: trained shadow models, by plan.
        task: the model's training task.
    """

    candidates: Batch
    reference: Batch
    model: nn.Module
    loss: Loss
    weights: tuple[tuple[int, Tensors], ...]
    updates: tuple[WatchedUpdate, ...]
    train_shadow: TrainShadow
    shadows: Mapping[ShadowPlan, tuple[Shadow, ...]] = field(default_factory=dict[ShadowPlan, tuple[Shadow, ...]])
    task: Task[Any] = field(kw_only=True)
