"""What an attack on membership sees, and the shadow models that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Generator, Tensor, nn

from fedsim.core.types.basics import Loss, Tensors
from fedsim.core.types.data import Batch
from fedsim.core.types.tasks import Task
from fedsim.core.types.updates import Update

Target = Literal["model", "update"]  # what a membership attack judges: the trained model, or one client's updates


TrainShadow = Callable[[Batch, Generator], Tensors]


@dataclass(frozen=True)
class ShadowPlan:
    """Shadow models that a membership attack wants; attacks with the same plan share them.

    Attributes:
        count: how many, even: every example of the pool is in the training set of exactly half of them.
        with_candidates: whether the pool holds the candidates beside the attacker's reference examples.
    """

    count: int
    with_candidates: bool


@dataclass(frozen=True)
class Shadow:
    """A model that the attacker trained himself, and on what.

    Attributes:
        weights: its state dict.
        candidates: which candidates were in its training set, boolean, shape (N,).
        reference: which reference examples were, boolean, shape (R,).
    """

    weights: Tensors
    candidates: Tensor
    reference: Tensor


@dataclass(frozen=True)
class WatchedUpdate:
    """One client's update as it was on the wire, and the weights that it answers."""

    round: int
    received: Tensors
    update: Update


@dataclass(frozen=True)
class MembershipObservation:
    """Everything a membership attack gets. Built only in `fedsim.threat.membership`.

    No path of references leads from here to the training set, or to which candidates are members.

    Attributes:
        candidates: N examples, members and others in an order that a seed shuffled.
        reference: R further examples that nobody trained on and that are no candidates: the attacker's own.
        model: the architecture with the final weights, in evaluation mode.
        loss: the client's loss, ``loss(outputs, labels) -> scalar``.
        weights: (round, state dict) of the global model after every watched round and after the last one, ascending.
        updates: what one client sent in the watched rounds, ascending; empty for attacks on the model.
        train_shadow: trains a model on given examples about as the federation trained its own.
        shadows: models that were trained so already, by plan.
        task: what the model was trained to do.
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
