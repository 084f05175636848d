"""What an attacker sees and is granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fedsim.core.devices import CPU
from fedsim.core.types.basics import Config, Draws, Loss, Masks, Tensors
from fedsim.core.types.data import InputSpec
from fedsim.core.types.effects import Effect
from fedsim.core.types.grants import Knowledge, Server, View
from fedsim.core.types.tasks import Task
from fedsim.core.types.updates import DropoutSite, Update

EffectT = TypeVar("EffectT", bound=Effect)


@dataclass(frozen=True)
class PublicKnowledge:
    """What the description of a defense or component tells an attacker who knows that it is in use.

    Attributes:
        source: its name.
        effects: what it does, as attacks understand it whatever method does it; see `fedsim.core.types.effects`.
        settings: the method's own settings, for people to read.
    """

    source: str
    effects: tuple[Effect, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


class ThreatModel(Config):
    """Who the attacker is and what he knows. Printed before a run and stored with it."""

    server: Server = "honest-but-curious"
    sees: View = "single-update"
    knows: tuple[Knowledge, ...] = ()


@dataclass(frozen=True)
class Observation:
    """Everything an attack gets. Built only by `fedsim.threat.observe.observe`.

    No path of references leads from here to the private batch or the true masks unless the threat
    model grants them.

    Attributes:
        threat: the threat model it was built under.
        model: the architecture with the weights the client received, in training mode.
        loss: the client's loss, ``loss(outputs, labels) -> scalar``.
        update: the update as it was on the wire, or the mean of a round's updates when the server sees only that; its
            number of examples is 0 unless the ``batch-size`` is known.
        spec: shape and number of classes; mean 0 and standard deviation 1 unless the
            ``input-statistics`` are known.
        local_steps: number of local steps behind the update.
        learning_rate: the client's step size, for updates of kind ``"delta"``.
        sites: where the model drops out, for the known batch size or one example; rates are 0 unless
            ``dropout-rates`` are known.
        batch_size: examples of the first step, or None; of a mean, those of all participants. A Poisson batch may have
            none; then `sites` are for one example.
        labels: labels of the batch, or None; of a mean, those of all participants, one after the other; of several
            steps, those of the distinct examples in ascending order, which says nothing about batches.
        masks: the true masks of every local step, or None.
        public: descriptions of the defenses in use if ``defenses`` are known, and of the components if
            ``components`` are.
        hidden: trained parameters whose tensors the server does not see; they are missing in the update.
        optimizer: name of the client's optimizer, for updates of kind ``"delta"``.
        optimizer_settings: its settings by name.
        is_resumed: whether the optimizer went on with what it kept of earlier rounds.
        batch_sizes: examples of every local step, or None unless the ``batch-size`` is known.
        examples: distinct examples behind the update, or None unless the ``batch-size`` is known. Fewer than all
            ``batch_sizes`` together when the client passed over its examples more than once.
        draws: what the task and the components of every local step drew, or None unless ``draws`` are known; of a
            mean, None.
        set_aside: tensors that arrived, but count as hidden since a known defense makes them unreliable. Nothing is
            matched with them; labels may be read off them.
        earlier: of the same client's updates in the attacked rounds before, ascending, each without `earlier` of its
            own; empty unless ``earlier-rounds`` are known, and for attacks that do not look over rounds.
        given: what the model reads beside the inputs, in the order of the labels, or None unless ``given`` is known.
        device: where an attack works. All tensors here are on the CPU; an attack gets them on the device.
        task: what the clients' model is trained to do.
        label_shape: of the label of one example; () for one class or one number.
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
    public: tuple[PublicKnowledge, ...]
    hidden: frozenset[str] = frozenset()
    optimizer: str = "sgd"
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_resumed: bool = False
    batch_sizes: tuple[int, ...] | None = None
    examples: int | None = None
    draws: tuple[Draws, ...] | None = None
    set_aside: Tensors = field(default_factory=dict[str, Tensor])
    earlier: tuple[Observation, ...] = ()
    given: Mapping[str, Tensor] | None = None
    device: torch.device = CPU
    label_shape: tuple[int, ...] = ()
    task: Task[Any] = field(kw_only=True)

    def effects(self, kind: type[EffectT]) -> tuple[EffectT, ...]:
        """Return the effects of a type, or of types derived from it, of all known components and defenses in order."""
        return tuple(effect for known in self.public for effect in known.effects if isinstance(effect, kind))
