"""Batched local training of many clients: stacked weights, batches and masks, with one gradient call per step.

Batches, dropout masks and hooks equal those of `fedsim.federation.client.local_training` for each client. The result
equals it up to float32 rounding, not bit by bit, because sums of products have another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fedsim.core import seeding
from fedsim.core.devices import DeviceScope
from fedsim.core.errors import ClientRefusal, FedsimError, describe_exception
from fedsim.core.nets.masks import disable_dropout, draw_masks, inject_masks, mask_not_batch_first, named_calls
from fedsim.core.types import Batch, Draws, DropoutSite, Masks, Memory, Tensors, Update
from fedsim.federation.client import ClientRound, local_training
from fedsim.scenario.model_source import ScratchModel
from fedsim.scenario.world import World

ROUNDING = 1e-4
"""Maximum distance between updates of batched and of single training, relative to the latter's norm."""

_PROBE = 3
_Parts = tuple[Tensor, Tensor, dict[str, Tensor]]  # inputs, labels and given inputs of a batch
_ADVICE = "Use engine = 'local'."


@dataclass(frozen=True)
class CohortUpdates:
    """Updates of n clients: `vectors` (n, P), and each client's number of examples and mean loss."""

    vectors: Tensor
    examples: tuple[int, ...]
    losses: tuple[float, ...]

    def rows(self) -> Iterator[tuple[Tensor, int, float]]:
        """Return vector, number of examples and loss of each client."""
        return zip(self.vectors.unbind(), self.examples, self.losses, strict=True)


def cohort_training(
    world: World, received: Tensors, round_: int, clients: Sequence[int], memories: Sequence[Memory]
) -> CohortUpdates:
    """Train on the batches of several clients at once.

    Args:
        world: a world accepted by `check`.
        received: the global state dict of this round.
        round_: round number from 1.
        clients: client numbers.
        memories: each client's memory of its earlier rounds; changed in place.

    Returns:
        The clients' updates, in the order of `clients`.
    """
    choices, bench = (
        _choices(world, round_, clients),
        world.scratch_model,
    )  # built before tensors are moved to the device
    with DeviceScope(world.device) as there:
        memories_here = there.to_device(memories)
        trained = there.to_cpu(
            _Cohort(
                world, bench, there.to_device(received), round_, clients, memories_here, choices, there
            ).train_clients()
        )
        if memories_here is not memories:
            for memory, changed in zip(memories, memories_here, strict=True):
                there.copy_back(changed, memory)
    return trained


def _choices(world: World, round_: int, clients: Sequence[int]) -> list[list[Tensor]]:
    """Return the indices of the examples of every client's steps."""
    generators = seeding.generators(world.scenario.seed, "batches", [(round_, client) for client in clients])
    return [list(world.data.choices(client, generator)) for client, generator in zip(clients, generators, strict=True)]


def check(world: World) -> None:
    """Train two clients batched and singly, and compare the updates.

    Raises:
        FedsimError: the model or a component does not support batched training; the message names it.
    """
    for term in (*world.stack.objectives, *world.stack.loss_terms):
        raise FedsimError(f"engine 'vectorized' has no place for loss terms such as '{term.name}'. {_ADVICE}")
    for reader in world.stack.whole_batch_components:
        raise FedsimError(
            f"engine 'vectorized' does not support the {reader}, which depends on the whole batch. {_ADVICE}"
        )
    for defense in world.stack.defenses:
        if defense.needs_step or any(map(defense.overrides, ("on_batch", "loss", "on_examples"))):
            raise FedsimError(f"engine 'vectorized' does not support the defense '{defense.name}'. {_ADVICE}")
    if world.scenario.federation.sampling == "poisson":
        raise FedsimError(
            f"engine 'vectorized' has no place for empty batches, which Poisson sampling draws. {_ADVICE}"
        )
    model = world.models.new()
    spec = world.data.dataset.spec
    run = world.models.trial(model)
    site = mask_not_batch_first(model, spec.shape, spec.dtype, run)
    if site is not None:
        raise FedsimError(f"engine 'vectorized' cannot train '{site.name}': its mask is not batch first. {_ADVICE}")
    mixing = world.models.mixing_module
    if mixing is not None:
        raise FedsimError(
            f"engine 'vectorized' cannot train {mixing}: it mixes the examples of a batch, of which clients have "
            f"different numbers. {_ADVICE}"
        )
    _check_buffers(model, partial(run, torch.zeros(_PROBE, *spec.shape, dtype=spec.dtype)))
    clients = range(min(2, world.scenario.federation.clients))
    names: list[str] = []
    try:
        with named_calls(world.scratch_model.load_weights(world.models.first_weights), names):
            joint = cohort_training(world, world.models.first_weights, 1, clients, [{} for _ in clients])
    except Exception as error:
        raise FedsimError(
            f"engine 'vectorized' cannot train '{names[-1] if names else 'model'}': "
            f"{describe_exception(error)}. {_ADVICE}"
        ) from error
    for client, vector in zip(clients, joint.vectors, strict=True):
        try:
            single, _ = local_training(world, world.models.first_weights, 1, client)
        except ClientRefusal:  # no update that could differ
            continue
        expected = world.models.layout.flat(single.tensors, single.buffers)
        if not torch.dist(vector, expected) <= ROUNDING * expected.norm():
            raise FedsimError(
                f"engine 'vectorized' trains this model differently: the update of client {client} is off by "
                f"{torch.dist(vector, expected) / expected.norm():.1g} of its norm. {_ADVICE}"
            )


def _check_buffers(model: nn.Module, run: Callable[[], Tensor]) -> None:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), disable_dropout():
        run()
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, before[name]):
            owner, _, own_name = name.rpartition(".")
            raise FedsimError(
                f"engine 'vectorized' cannot train '{owner or 'model'}': it changes its buffer '{own_name}' in "
                f"training, and clients must not share it. {_ADVICE}"
            )


class _Cohort:
    """A call of `cohort_training`.

    Clients are sorted by descending number of steps, so that active clients come first.
    """

    def __init__(
        self,
        world: World,
        bench: ScratchModel,
        received: Tensors,
        round_: int,
        clients: Sequence[int],
        memories: Sequence[Memory],
        choices: Sequence[Sequence[Tensor]],
        scope: DeviceScope,
    ) -> None:
        self._there = scope
        self._order = sorted(range(len(clients)), key=lambda i: -len(choices[i]))
        self._choices = [list(choices[i]) for i in self._order]
        self._world, self._received, self._number = world, received, round_
        self._clients, self._memories = [clients[i] for i in self._order], [memories[i] for i in self._order]
        self._model = bench.load_weights(received)
        self._is_fedsgd = world.scenario.federation.algorithm == "fedsgd"
        self._parameters = {
            name: received[name].expand(len(clients), *p.shape).clone() for name, p in bench.parameters.items()
        }
        self._fixed = {name: tensor for name, tensor in received.items() if name not in self._parameters}
        self._state: dict[str, Tensor] = {}
        self._gradient: dict[str, Tensor] = {}

    @cached_property
    def _rounds(self) -> list[ClientRound]:
        """The hook runner of each client, built at first use."""
        pairs = zip(self._clients, self._memories, strict=True)
        return [ClientRound(self._world, self._received, self._number, client, memory) for client, memory in pairs]

    def train_clients(self) -> CohortUpdates:
        losses = torch.zeros(len(self._clients))
        for step in range(len(self._choices[0])):
            active = sum(len(choice) > step for choice in self._choices)
            losses[:active] += self._step(step, active)
        losses /= torch.tensor([len(choice) for choice in self._choices])
        examples = [sum(chosen.shape[0] for chosen in choice) for choice in self._choices]
        vectors = self._uploads(examples, losses.tolist())
        if self._order == sorted(self._order):
            return CohortUpdates(vectors, tuple(examples), tuple(losses.tolist()))
        places = sorted(range(len(self._order)), key=self._order.__getitem__)
        return CohortUpdates(vectors[places], tuple(examples[i] for i in places), tuple(losses[places].tolist()))

    def _step(self, step: int, active: int) -> Tensor:
        parameters = {name: p[:active] for name, p in self._parameters.items()}
        choices = [choice[step] for choice in self._choices[:active]]
        with seeding.isolate_randomness(0):
            batch, draws = self._batch(step, choices)
            masks = self._masks(step, choices)
            gradient, losses = self._gradients(parameters, batch, draws, _shares(choices), masks)
        if self._world.stack.defenses or self._world.scenario.federation.keep_optimizer_state:
            self._one_by_one(parameters, gradient, step)
        elif self._is_fedsgd:
            self._gradient = gradient
        else:
            self._state = {key: t[:active] if t.dim() else t for key, t in self._state.items()}
            self._world.stack.step(parameters, gradient, self._state)
        return losses

    def _batch(self, step: int, choices: list[Tensor]) -> tuple[Batch, Draws]:
        """Return the clients' augmented batches and the task's random draws, padded."""
        train = self._world.data.dataset.train
        if not self._world.stack.augmentations and not self._world.task.draws:
            chosen = pad_sequence(choices, batch_first=True)
            given = {name: column[chosen] for name, column in train.extra_inputs.items()}
            return self._there.to_device(Batch(train.inputs[chosen], train.labels[chosen], given)), {}
        batches: list[Batch] = []
        draws: list[dict[str, Tensor]] = []
        for place, part in zip(self._rounds, choices, strict=False):
            batches.append(place.augment(self._there.to_device(train.select(part)), step, {}))
            draws.append({})
            place.draw(batches[-1], step, draws[-1])
        return _pad(batches), _fill_up(draws)

    def _gradients(
        self,
        parameters: dict[str, Tensor],
        batch: Batch,
        draws: Draws,
        shares: Tensor,
        masks: tuple[Tensor, ...],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return every client's gradient and mean loss; all arguments have a leading client dimension."""
        sites, task = self._world.models.sites, self._world.task

        def answer(weights: dict[str, Tensor], parts: _Parts, drew: Draws, drop: Masks) -> tuple[Tensor, Tensor]:
            def model(*inputs: Tensor, **given: Tensor) -> Tensor:
                return torch.func.functional_call(self._model, (weights, self._fixed), inputs, given)

            with inject_masks(sites, drop) if sites else nullcontext():
                return task.answer(model, Batch(*parts), drew)

        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        parts: _Parts = (batch.inputs, batch.labels, dict(batch.extra_inputs))
        vectorized = cast("Callable[..., tuple[Tensor, Tensor]]", torch.func.vmap(answer))
        outputs, targets = vectorized(leaves, parts, dict(draws), masks)
        example_losses = task.losses(outputs.flatten(0, 1), targets.flatten(0, 1)).view_as(shares)
        losses = (example_losses * shares).sum(1)
        # A client's loss depends only on its own weights, so the gradient of the sum holds each client's gradient.
        tensors = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, tensors, strict=True)), losses.detach()

    def _masks(self, step: int, choices: list[Tensor]) -> tuple[Tensor, ...]:
        """Sample each client's dropout masks as in single training: a generator per step, masks in call order."""
        if not self._world.models.sites:
            return ()
        like = next(iter(self._parameters.values()))
        places = [(self._number, client, step) for client in self._clients[: len(choices)]]
        generators = seeding.generators(self._world.scenario.seed, "dropout", places)
        masks = [
            draw_masks(_sites(self._world, len(choice)), generator, like)
            for choice, generator in zip(choices, generators, strict=True)
        ]
        return tuple(pad_sequence(list(site), batch_first=True) for site in zip(*masks, strict=True))

    def _one_by_one(self, parameters: dict[str, Tensor], gradient: dict[str, Tensor], step: int) -> None:
        """Apply each client's own gradient defenses and optimizer step."""
        defended: list[Tensors] = []
        for index in range(len(next(iter(parameters.values())))):
            round_ = self._rounds[index]
            defended.append(round_.defend({name: g[index] for name, g in gradient.items()}, step, None))
            if not self._is_fedsgd:
                weights = {name: p[index] for name, p in parameters.items()}
                self._world.stack.step(weights, defended[-1], round_.optimizer_state())
        if self._is_fedsgd:
            self._gradient = {name: torch.stack([update[name] for update in defended]) for name in gradient}

    def _uploads(self, examples: list[int], losses: list[float]) -> Tensor:
        tensors = self._gradient if self._is_fedsgd else {n: self._received[n] - p for n, p in self._parameters.items()}
        count, layout = len(self._clients), self._world.models.layout
        flat = torch.cat([t.reshape(count, -1) for t in tensors.values()], dim=1)
        vectors = F.pad(flat, (0, layout.size - layout.parameters)) if layout.buffers else flat
        if not self._world.stack.defenses:
            return vectors
        kind = self._world.scenario.federation.sends
        for index, round_ in enumerate(self._rounds):
            raw = Update(kind, *layout.unflatten(vectors[index]), examples[index], losses[index])
            sent = round_.upload(raw, len(self._choices[index]))
            vectors[index] = layout.flat(sent.tensors, sent.buffers)
        return vectors


def _sites(world: World, examples: int) -> tuple[DropoutSite, ...]:
    return tuple(replace(site, shape=(examples, *site.shape[1:])) for site in world.models.sites)


def _shares(choices: Sequence[Tensor]) -> Tensor:
    """Return the weight of each example in its client's mean loss, zero for padding."""
    counts = torch.tensor([choice.shape[0] for choice in choices]).unsqueeze(1)
    return (torch.arange(int(counts.max())) < counts) / counts


def _pad(batches: Sequence[Batch]) -> Batch:
    """Stack the batches of several clients along a leading dimension, with padding."""
    inputs = pad_sequence([batch.inputs for batch in batches], batch_first=True)
    labels = pad_sequence([batch.labels for batch in batches], batch_first=True)
    return Batch(inputs, labels, _fill_up([batch.extra_inputs for batch in batches]))


def _fill_up(parts: Sequence[Tensors]) -> dict[str, Tensor]:
    return {name: pad_sequence([part[name] for part in parts], batch_first=True) for name in parts[0]}
