"""One client's round on one screen: received weights in, update out. Knows nothing about Flower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim import seeding
from fedsim.hooks import Here
from fedsim.masks import recorded_masks
from fedsim.types import Batch, Masks, Tensors, Truth, Update
from fedsim.world import World, cross_entropy


def local_training(world: World, received: Tensors, round_: int, client: int) -> tuple[Update, Truth]:
    """Train on one client's batches.

    Args:
        world: the scenario made real.
        received: the global state dict of this round.
        round_: from 1.
        client: number of the client's share, from 0.

    Returns:
        What the client sends, and its private side for the scorer. Both depend on the arguments alone: calling
        it again gives the same bits.
    """
    seed = world.scenario.seed
    is_fedsgd = world.scenario.federation.algorithm == "fedsgd"
    with seeding.contained(seeding.derive(seed, "foreign", round_, client)):
        model = world.model_with(received)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        state: dict[str, Tensor] = {}
        gradient: Tensors = {}
        batches: list[Batch] = []
        masks: list[Masks] = []
        losses: list[float] = []

        for step, drawn in enumerate(world.batches(round_, client)):
            batch = _augmented(world, drawn, round_, client, step)
            loss, gradient, step_masks = _gradient(world, model, parameters, batch, round_, client, step)
            gradient = _defended(world, gradient, round_, client, step)
            if not is_fedsgd:
                world.optimizer.step(parameters, gradient, state)
            batches.append(batch)
            masks.append(step_masks)
            losses.append(loss)

        update = Update(
            kind="gradient" if is_fedsgd else "delta",
            tensors=gradient if is_fedsgd else {n: received[n] - p.detach() for n, p in parameters.items()},
            buffers={n: received[n] - b for n, b in model.named_buffers() if n in received and b.is_floating_point()},
            examples=sum(len(batch) for batch in batches),
            loss=sum(losses) / len(losses),
        )
        for index, defense in enumerate(world.defenses):
            update = defense.on_upload(update, _here(seed, f"defense {index}", round_, client, len(batches)))
    return update, Truth(tuple(batches), tuple(masks))


def _augmented(world: World, batch: Batch, round_: int, client: int, step: int) -> Batch:
    for index, augmentation in enumerate(world.augmentations):
        here = _here(world.scenario.seed, f"augment {index}", round_, client, step)
        batch = augmentation.augment(batch, here)
    return batch


def _gradient(
    world: World,
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    batch: Batch,
    round_: int,
    client: int,
    step: int,
) -> tuple[float, Tensors, Masks]:
    seed = world.scenario.seed
    with recorded_masks(model, seeding.generator(seed, "dropout", round_, client, step)) as recording:
        outputs = model(batch.inputs)
        loss = cross_entropy(outputs, batch.labels)
        for index, term in enumerate(world.loss_terms):
            loss = loss + term.loss(model, batch, outputs, _here(seed, f"loss {index}", round_, client, step))
    tensors = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return float(loss.detach()), dict(zip(parameters, tensors, strict=True)), tuple(recording.masks)


def _defended(world: World, gradient: Tensors, round_: int, client: int, step: int) -> Tensors:
    for index, defense in enumerate(world.defenses):
        here = _here(world.scenario.seed, f"defense {index}", round_, client, step)
        gradient = defense.on_gradient(gradient, here)
    return gradient


def _here(seed: int, purpose: str, round_: int, client: int, step: int) -> Here:
    return Here(round_, client, step, seeding.generator(seed, purpose, round_, client, step))
