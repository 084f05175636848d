"""Observation of an attacker: public knowledge, threat model, and grants."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from fedsim.core.devices import CPU
from fedsim.core.grants import Knowledge, Server, View
from fedsim.core.settings import Config
from fedsim.core.types.basics import Draws, Loss, Masks, Tensors
from fedsim.core.types.data import InputSpec
from fedsim.core.types.effects import Effect
from fedsim.core.types.tasks import Task
from fedsim.core.types.updates import DropoutSite, Update

EffectT = TypeVar("EffectT", bound=Effect)


@dataclass(frozen=True)
class MethodDescription:
    """Knowledge from the public description of a defense or component in use.

    Attributes:
        source: its name.
        effects: its effects as types that attacks match on; see `fedsim.core.types.effects`.
        settings: its settings, for readers.
    """

    source: str
    effects: tuple[Effect, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


class ThreatModel(Config):
    """The attacker's role and knowledge. Printed before a run and stored with it."""

    server: Server = "honest-but-curious"
    view: View = "single-update"
    knows: tuple[Knowledge, ...] = ()


@dataclass(frozen=True)
class Observation:
    """All inputs of an attack. Built only by `fedsim.threat.observe.observe`.

    It holds no reference to the private batch or the true masks unless the threat model grants them.

    Attributes:
        threat: the threat model it was built under.
        model: the architecture with the weights that the client received, in training mode.
        loss: the client's loss, ``loss(outputs, labels) -> scalar``.
        update: the update as sent, or the mean of a round's updates if the server sees only their sum; its number of
            examples is 0 unless ``batch-size`` is granted.
        spec: shape and number of classes; mean 0 and standard deviation 1 unless ``input-statistics`` is granted.
        local_steps: number of local steps of the update.
        learning_rate: the client's step size, for updates of kind ``"delta"``.
        sites: dropout sites of the model, for the known batch size or one example; rates are 0 unless ``dropout-rates``
            is granted.
        batch_size: examples of the first step, or None; for a mean, of all participants. A Poisson batch may be empty;
            then `sites` are for one example.
        labels: labels of the batch, or None; for a mean, of all participants, concatenated; for several steps, of the
            distinct examples in ascending order, independent of batches.
        masks: the true masks of each local step, or None.
        known_methods: descriptions of the defenses in use if ``defenses`` is granted, and of the components if
            ``components`` is.
        hidden_parameters: trained parameters whose tensors the server does not see; they are missing in the update.
        optimizer: name of the client's optimizer, for updates of kind ``"delta"``.
        optimizer_settings: its settings by name.
        is_resumed: whether the optimizer continued from its state of earlier rounds.
        batch_sizes: examples of each local step, or None unless ``batch-size`` is granted.
        examples: distinct examples of the update, or None unless ``batch-size`` is granted. Fewer than the sum of
            `batch_sizes` for several local epochs.
        draws: draws of task and components in each local step; None for a mean, and unless ``client-randomness`` is
            granted.
        unreliable_tensors: received tensors that count as hidden because a known defense makes them unreliable. Attacks
            do not match them, but may infer labels from them.
        earlier_observations: observations of the same client's updates in earlier attacked rounds, ascending, each with
            empty `earlier_observations`; empty unless ``earlier-rounds`` is granted and the attack uses several rounds.
        extra_inputs: further model inputs, in the order of the labels, or None unless ``extra-inputs`` is granted.
        device: device on which an attack runs. All tensors here are on the CPU; an attack gets them on the device.
        task: the training task of the clients' model.
        label_shape: shape of an example's label; () for a class or a number.
    """

    threat: ThreatModel
    model: nn.Module
    loss: Loss
    update: Update
    spec: InputSpec
    local_steps: int
    learning_rate: float
    sites: tuple[DropoutSite, ...]
    batch_size: int | None
    labels: Tensor | None
    masks: tuple[Masks, ...] | None
    known_methods: tuple[MethodDescription, ...]
    hidden_parameters: frozenset[str] = frozenset()
    optimizer: str = "sgd"
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_resumed: bool = False
    batch_sizes: tuple[int, ...] | None = None
    examples: int | None = None
    draws: tuple[Draws, ...] | None = None
    unreliable_tensors: Tensors = field(default_factory=dict[str, Tensor])
    earlier_observations: tuple[Observation, ...] = ()
    extra_inputs: Mapping[str, Tensor] | None = None
    device: torch.device = CPU
    label_shape: tuple[int, ...] = ()
    task: Task[Any] = field(kw_only=True)

    def working_copy(
        self,
        mode: Literal["train", "eval"] | None = None,
        dtype: torch.dtype | None = None,
        *,
        replaced: Mapping[str, nn.Module] = MappingProxyType({}),
    ) -> nn.Module:
        """Return a copy of the model that an attack may change; the observed model stays as it is.

        Args:
            mode: training or evaluation mode; None: that of the model.
            dtype: type of the copy's floating-point tensors; None: that of the model.
            replaced: modules of the copy in place of modules of the model, by name.
        """
        memo: dict[int, Any] = {id(self.model.get_submodule(name)): module for name, module in replaced.items()}
        model = copy.deepcopy(self.model, memo).to(dtype=dtype)
        return model if mode is None else model.train(mode == "train")

    def effects(self, kind: type[EffectT]) -> tuple[EffectT, ...]:
        """Return all effects of a type (or subtype) of the known components and defenses, in order."""
        return tuple(effect for known in self.known_methods for effect in known.effects if isinstance(effect, kind))
