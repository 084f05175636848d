"""One client's round on one screen: received weights in, update out. Knows nothing about Flower."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from fedsim import seeding
from fedsim.hooks import Augmentation, Defense, Here, LossTerm
from fedsim.masks import kept_masks
from fedsim.types import Batch, Masks, Memory, Tensors, Truth, Update
from fedsim.world import World, cross_entropy


def local_training(
    world: World, received: Tensors, round_: int, client: int, memory: Memory | None = None
) -> tuple[Update, Truth]:
    """Train on one client's batches.

    Args:
        world: the scenario made real.
        received: the global state dict of this round.
        round_: from 1.
        client: number of the client's share, from 0.
        memory: what the client remembers of its earlier rounds; changed in place. Nothing when absent.

    Returns:
        What the client sends, and its private side for the scorer. Both depend on the arguments alone: calling
        it again gives the same bits.
    """
    here = ClientRound(world, received, round_, client, {} if memory is None else memory)
    is_fedsgd = world.scenario.federation.algorithm == "fedsgd"
    with seeding.contained(seeding.derive(world.scenario.seed, "foreign", round_, client)):
        model = world.model_with(received)
        parameters = world.parameters
        state = here.optimizer_state()
        gradient: Tensors = {}
        batches: list[Batch] = []
        masks: list[Masks] = []
        losses: list[float] = []

        for step, drawn in enumerate(world.batches(round_, client)):
            batch = here.augmented(drawn, step)
            loss, gradient, step_masks = here.gradient(model, parameters, batch, step)
            gradient = here.defended(gradient, step)
            if not is_fedsgd:
                world.optimizer.step(parameters, gradient, state)
            batches.append(batch)
            masks.append(step_masks)
            losses.append(loss)

        raw = Update(
            kind=world.scenario.federation.sends,
            tensors=gradient if is_fedsgd else {n: received[n] - p.detach() for n, p in parameters.items()},
            buffers={n: received[n] - b for n, b in world.buffers.items()},
            examples=sum(len(batch) for batch in batches),
            loss=sum(losses) / len(losses),
        )
        update = here.uploaded(raw, len(batches))
    return update, Truth(tuple(batches), tuple(masks), raw)


@dataclass(frozen=True)
class ClientRound:
    """One client in one round: runs its hooks in their order, each with its own randomness and memory."""

    world: World
    received: Tensors
    round: int
    client: int
    memory: Memory
    _brief: Memory = field(default_factory=dict[str, dict[str, Tensor]])

    def augmented(self, batch: Batch, step: int) -> Batch:
        """Return the batch as the model sees it."""
        for index, augmentation in enumerate(self.world.augmentations):
            batch = augmentation.augment(batch, self._at(f"augment {index}", augmentation, step))
        return batch

    def gradient(
        self, model: nn.Module, parameters: dict[str, nn.Parameter], batch: Batch, step: int
    ) -> tuple[float, Tensors, Masks]:
        """Return loss, gradient by parameter, and the dropout masks that were drawn."""
        if not self.world.sites:
            loss = self._loss(model, batch, step)
            return loss.item(), _gradient(loss, parameters), ()
        with kept_masks(self.generator("dropout", step)) as masks:
            loss = self._loss(model, batch, step)
        return loss.item(), _gradient(loss, parameters), tuple(masks)

    def defended(self, gradient: Tensors, step: int) -> Tensors:
        """Return the gradient that the optimizer gets."""
        for index, defense in enumerate(self.world.defenses):
            gradient = defense.on_gradient(gradient, self._at(f"defense {index}", defense, step))
        return gradient

    def uploaded(self, update: Update, steps: int) -> Update:
        """Return the update that goes onto the wire."""
        for index, defense in enumerate(self.world.defenses):
            update = defense.on_upload(update, self._at(f"defense {index}", defense, steps))
        return update

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer's state: that of earlier rounds if the scenario keeps it, else an empty one."""
        keeps = self.world.scenario.federation.keep_optimizer_state
        return (self.memory if keeps else self._brief).setdefault("optimizer", {})

    def generator(self, purpose: str, step: int) -> torch.Generator:
        """Return this client's generator for one purpose at one step."""
        return seeding.generator(self.world.scenario.seed, purpose, self.round, self.client, step)

    def _loss(self, model: nn.Module, batch: Batch, step: int) -> Tensor:
        outputs = model(batch.inputs)
        loss = cross_entropy(outputs, batch.labels)
        for index, term in enumerate(self.world.loss_terms):
            loss = loss + term.loss(model, batch, outputs, self._at(f"loss {index}", term, step))
        return loss

    def _at(self, owner: str, hook: Augmentation | LossTerm | Defense, step: int) -> Here:
        memory = (self.memory if hook.remembers else self._brief).setdefault(owner, {})
        return Here(self.round, self.client, step, self.generator(owner, step), self._shown, memory)

    @cached_property
    def _shown(self) -> Tensors:
        """The received weights for hooks: a copy, since those that came in belong to every client of the process."""
        return {name: tensor.clone() for name, tensor in self.received.items()}


def _gradient(loss: Tensor, parameters: dict[str, nn.Parameter]) -> Tensors:
    tensors = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, tensors, strict=True))
