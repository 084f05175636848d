"""Attacks on gradients of networks that no scenario builds, as `fedsim.reconstruct` makes them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fedsim
from fedsim.core import seeding
from fedsim.core.types import Batch, InputSpec, Reconstruction


def reconstruct_batch(
    network: Callable[[], nn.Module], batch: Batch, spec: InputSpec, number: int, seconds: float | None = None
) -> tuple[Reconstruction, float]:
    """Return the guess of `auto` for the gradient of a batch, labels inferred, and the processor seconds it took.

    Args:
        network: makes it, untrained.
        batch: of the client.
        spec: of the examples.
        number: of the update, which decides the weights and the masks.
        seconds: of the processor for the attack; None: as many as it takes.
    """
    with seeding.isolate_randomness(number):
        model = network().train()
        gradients = torch.autograd.grad(cross_entropy(model(batch.inputs), batch.labels), list(model.parameters()))
    begin = time.process_time()
    guess = fedsim.reconstruct(
        model,
        cross_entropy,
        gradients,
        shape=spec.shape,
        classes=spec.classes,
        batch_size=len(batch),
        mean=spec.mean,
        std=spec.std,
        seconds=seconds,
    )
    return guess, time.process_time() - begin
