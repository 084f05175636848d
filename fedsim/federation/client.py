"""Local training of a client in a round: from received weights to an update. Independent of Flower."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.devices import DeviceScope
from fedsim.core.errors import ClientRefusal
from fedsim.core.hooks import Augmentation, Defense, HookContext, LocalStep, LossTerm, Task
from fedsim.core.nets.masks import KeptPrefixes, keep_masks
from fedsim.core.nets.step_draws import Showing
from fedsim.core.types import Batch, Masks, Memory, Tensors, Truth, Update
from fedsim.scenario.model_source import ScratchModel
from fedsim.scenario.world import World


def local_training(
    world: World, received: Tensors, round_: int, client: int, memory: Memory | None = None
) -> tuple[Update, Truth]:
    """Train on a client's batches.

    Args:
        world: the scenario's built objects.
        received: the global state dict of this round.
        round_: round number from 1.
        client: client number from 0.
        memory: the client's memory of its earlier rounds; changed in place. None: empty.

    Returns:
        The client's update, and its ground truth for the scorer. Both are deterministic functions of the arguments, bit
        by bit.

    Raises:
        ClientRefusal: a defense rejected the received weights.
    """
    private, memory = tuple(world.data.batches(round_, client)), {} if memory is None else memory
    _inspect(world, received, round_, client, memory, private)
    scratch = world.scratch_model  # built before tensors are moved to the device
    with DeviceScope(world.device) as there:
        working_memory = there.to_device(memory)
        client_round = ClientRound(world, there.to_device(received), round_, client, working_memory)
        result = there.to_cpu(_train(client_round, scratch, there.to_device(private)))
        there.copy_back(working_memory, memory)
    return result


def _train(client_round: ClientRound, scratch: ScratchModel, private: tuple[Batch, ...]) -> tuple[Update, Truth]:
    world, received, round_, client = (
        client_round.world,
        client_round.received_weights,
        client_round.round,
        client_round.client,
    )
    is_fedsgd = world.scenario.federation.algorithm == "fedsgd"
    expected = world.scenario.federation.batch_size
    with seeding.isolate_randomness(seeding.derive(world.scenario.seed, "foreign", round_, client)):
        model = scratch.load_weights(received)
        parameters = scratch.parameters
        state = client_round.optimizer_state()
        gradient: Tensors = {}
        batches: list[Batch] = []
        masks: list[Masks] = []
        step_losses: list[float] = []

        augmented, draws = client_round.augment_in_order(private)
        for step, (batch, dropping) in enumerate(
            zip(augmented, client_round.dropout_contexts(len(private)), strict=True)
        ):
            local = client_round.apply_batch_defenses(
                LocalStep(model, parameters, batch, expected, draws=draws[step]), step
            )
            client_round.draw(local.batch, step, draws[step])
            with Showing(draws[step]):
                loss, gradient, local = client_round.gradient(local, step, dropping)
            gradient = client_round.defend(gradient, step, local)
            if not is_fedsgd:
                world.stack.step(parameters, gradient, state)
            batches.append(local.batch)
            masks.append(local.masks)
            step_losses.append(loss)

        raw = Update(
            kind=world.scenario.federation.sends,
            tensors=gradient if is_fedsgd else {n: received[n] - p.detach() for n, p in parameters.items()},
            buffers={n: received[n] - b for n, b in scratch.buffers.items()},
            examples=sum(len(batch) for batch in batches),
            loss=mean_loss(step_losses),
        )
        update = client_round.upload(raw, len(batches))
    return update, Truth(tuple(batches), tuple(masks), raw, private, draws)


def refusal(world: World, received: Tensors, round_: int, client: int, memory: Memory) -> str | None:
    """Return the reason for which a client rejects the received weights, or None; arguments as in `local_training`."""
    try:
        _inspect(world, received, round_, client, memory, world.data.batches(round_, client))
    except ClientRefusal as reason:
        return str(reason)
    return None


def looks_first(world: World) -> bool:
    """Return whether a defense inspects the received weights before training."""
    return any(defense.overrides("on_received") for defense in world.stack.defenses)


def _inspect(
    world: World, received: Tensors, round_: int, client: int, memory: Memory, private: Iterable[Batch]
) -> None:
    if looks_first(world):
        with seeding.isolate_randomness(seeding.derive(world.scenario.seed, "foreign", round_, client)):
            ClientRound(world, received, round_, client, memory).inspect(private)


def mean_loss(losses: Sequence[float]) -> float:
    """Return the mean over the steps with examples; 0 if there is none."""
    known = [loss for loss in losses if not math.isnan(loss)]
    return sum(known) / len(known) if known else 0.0


@dataclass(frozen=True)
class ClientRound:
    """A client in a round: runs its hooks in order, each with its own random generator and memory."""

    world: World
    received_weights: Tensors
    round: int
    client: int
    memory: Memory
    _brief: Memory = field(default_factory=dict[str, dict[str, Tensor]])

    def inspect(self, private: Iterable[Batch]) -> None:
        """Run the defenses' inspection of the received weights, with the client's first batch.

        Raises:
            ClientRefusal: a defense rejected the weights.
        """
        models, first = self.world.models, next(iter(private))
        expected = self.world.scenario.federation.batch_size
        for index, defense in enumerate(self.world.stack.defenses):
            if defense.overrides("on_received"):
                local = LocalStep(models.load_weights(self.received_weights), models.parameters, first, expected)
                defense.on_received(
                    self._weight_copies, self._context_of(f"defense {index}", defense, 0, local, "received")
                )

    def augment_in_order(self, batches: Sequence[Batch]) -> tuple[Sequence[Batch], tuple[dict[str, Tensor], ...]]:
        """Augment the batches of all steps, and return them with the random draws of each step.

        This precedes the first step, because augmentation between gradients, with cold caches, is several times slower.
        """
        draws: tuple[dict[str, Tensor], ...] = tuple({} for _ in batches)
        return [self.augment(batch, step, draws[step]) for step, batch in enumerate(batches)], draws

    def augment(self, batch: Batch, step: int, draws: dict[str, Tensor]) -> Batch:
        """Return the augmented batch, and add its random draws to `draws`."""
        for index, augmentation in enumerate(self.world.stack.augmentations):
            context = self._context_of(f"augment {index}", augmentation, step, draws=draws)
            batch = augmentation.augment(batch, context) if len(batch) else batch
        return batch

    def apply_batch_defenses(self, local: LocalStep, step: int) -> LocalStep:
        """Return the step with its batch changed by the defenses."""
        for index, defense in enumerate(self.world.stack.defenses):
            if defense.overrides("on_batch") and len(local.batch):
                context = self._context_of(f"defense {index}", defense, step, local, "batch")
                local = replace(local, batch=defense.on_batch(local.batch, context))
        return local

    def draw(self, batch: Batch, step: int, draws: dict[str, Tensor]) -> None:
        """Add the task's random draws for an augmented batch to `draws`."""
        if self.world.task.draws and len(batch):
            draws.update(self.world.task.named_draws(batch, self.generator("task", step)))

    def dropout_contexts(self, steps: int) -> list[AbstractContextManager[Sequence[Tensor]]]:
        """Return a context for every step's forward pass that samples and stores the step's dropout masks."""
        sites = self.world.models.sites
        if not sites:
            return [nullcontext(())] * steps
        generators = [self.generator("dropout", step) for step in range(steps)]
        if all(site.odds and not site.per_example for site in sites):
            return [KeptPrefixes(sites, generator) for generator in generators]
        return [keep_masks(generator) for generator in generators]

    def gradient(
        self, local: LocalStep, step: int, dropping: AbstractContextManager[Sequence[Tensor]]
    ) -> tuple[float, Tensors, LocalStep]:
        """Return loss, gradient by parameter, and the step with its sampled dropout masks."""
        with dropping as masks:
            loss, gradient = self._own_gradient(local, step)
        if not self.world.models.sites:
            return loss, gradient, local
        model, parameters, batch, expected = local.model, local.parameters, local.batch, local.expected_batch_size
        sites = self.world.models.sites
        return loss, gradient, LocalStep(model, parameters, batch, expected, tuple(masks), sites, local.draws)

    def defend(self, gradient: Tensors, step: int, local: LocalStep | None) -> Tensors:
        """Return the gradient after all defenses."""
        for index, defense in enumerate(self.world.stack.defenses):
            gradient = defense.on_gradient(gradient, self._context_of(f"defense {index}", defense, step, local))
        return gradient

    def upload(self, update: Update, steps: int) -> Update:
        """Return the update after all defenses."""
        for index, defense in enumerate(self.world.stack.defenses):
            update = defense.on_upload(update, self._context_of(f"defense {index}", defense, steps))
        return update

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer's state: persistent if the scenario keeps it, else empty at the start of the round."""
        keeps = self.world.scenario.federation.keep_optimizer_state
        return (self.memory if keeps else self._brief).setdefault("optimizer", {})

    def generator(self, purpose: str, step: int) -> torch.Generator:
        """Return this client's random generator for a purpose and a step."""
        return seeding.generator(self.world.scenario.seed, purpose, self.round, self.client, step)

    def _own_gradient(self, local: LocalStep, step: int) -> tuple[float, Tensors]:
        """Return the gradient of a per-example defense, or else the plain mean gradient."""
        for index, defense in enumerate(self.world.stack.defenses):
            if defense.overrides("on_examples"):
                context = self._context_of(f"defense {index}", defense, step, local, "examples")
                return defense.on_examples(partial(_losses, self.world.task, local), context)
        return self._plain_gradient(local, step)

    def _plain_gradient(self, local: LocalStep, step: int) -> tuple[float, Tensors]:
        if not len(local.batch):
            return math.nan, {name: torch.zeros_like(p) for name, p in local.parameters.items()}
        loss = self._loss(local, step)
        return loss.item(), _gradient(loss, local.parameters)

    def _loss(self, local: LocalStep, step: int) -> Tensor:
        outputs, targets = self.world.task.answer(local.model, local.batch, local.draws)
        loss = self.world.stack.loss(self.round)(outputs, targets)
        for index, term in enumerate(self.world.stack.loss_terms):
            loss = loss + term.loss(local.model, local.batch, outputs, self._context_of(f"loss {index}", term, step))
        for index, defense in enumerate(self.world.stack.defenses):
            if defense.overrides("loss"):
                added = defense.loss(outputs, self._context_of(f"defense {index}", defense, step, local, "loss"))
                loss = loss if added is None else loss + added
        return loss

    def _context_of(
        self,
        owner: str,
        hook: Augmentation[Any] | LossTerm[Any] | Defense[Any],
        step: int,
        local: LocalStep | None = None,
        moment: str = "",
        draws: dict[str, Tensor] | None = None,
    ) -> HookContext:
        """Return a hook's context; each moment of a step has its own random generator."""
        memory = (self.memory if hook.keeps_state else self._brief).setdefault(owner, {})
        generator = self.generator(f"{owner} {moment}" if moment else owner, step)
        written = {} if draws is None else draws
        return HookContext(
            self.round,
            self.client,
            step,
            generator,
            self._weight_copies,
            memory,
            local,
            self.world.facts.federation,
            written,
        )

    @cached_property
    def _weight_copies(self) -> Tensors:
        """The received weights for hooks, as copies, because all clients of the process share the originals."""
        return _Copies(self.received_weights)


class _Copies(Mapping[str, Tensor]):
    """Mapping of tensors, copied at first access."""

    def __init__(self, originals: Tensors) -> None:
        self._originals = originals
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._made[name] = self._originals[name].clone()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._originals)

    def __len__(self) -> int:
        return len(self._originals)


def _losses(task: Task[Any], local: LocalStep) -> Tensor:
    return task.losses(*task.answer(local.model, local.batch, local.draws))


def _gradient(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> Tensors:
    tensors = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, tensors, strict=True))
