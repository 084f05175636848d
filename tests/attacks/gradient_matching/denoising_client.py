"""One step of a denoising client, as a server sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.types import Batch, Draws, InputSpec, Observation
from tests.attacks.solving import observed


class Client(NamedTuple):
    """A step: what the client has and drew, and what the server sees of it."""

    batch: Batch
    draws: Draws
    observation: Observation


def client_step(
    model: nn.Module,
    spec: InputSpec,
    batch: Batch,
    seed: int,
    *,
    classes: bool = False,
    level: float | None = None,
    grants_draws: bool = False,
) -> Client:
    """Return a step of task denoising on a batch.

    Args:
        model: the client's denoiser.
        spec: of the images.
        batch: its images.
        seed: of the noise.
        classes: whether the model is told them.
        level: the noise level of all images; drawn when absent.
        grants_draws: whether the server knows level and noise.
    """
    method = registry.get("task", "denoising")
    task = method.make(method.config.model_validate({"classes": classes, "class_dropout": 0.0})).with_name("denoising")
    draws = task.named_draws(batch, seeding.generator(seed, "client step"))
    if level is not None:
        draws["task.level"] = torch.full_like(draws["task.level"], level)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    loss = task.loss(*task.answer(model, batch, draws))
    slopes = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    tensors: dict[str, Tensor] = dict(zip(names, slopes, strict=True))
    observation = observed(model, spec, tensors, len(batch), loss=task.loss, labels=batch.labels, task=task)
    return Client(batch, draws, replace(observation, draws=(draws,)) if grants_draws else observation)
