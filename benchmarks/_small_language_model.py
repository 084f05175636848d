"""A small language model that knows some news, and sentences for what is measured on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedsim.components.optimizer.adam import Adam, AdamConfig
from fedsim.core import registry
from fedsim.core.hooks import ModelComponent, Optimizer
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.types import Batch

_STEPS, _BATCH, _RATE = 600, 32, 3e-3
_KNOWN = 1000  # training sentences that the model learns; the others are for adapters and victims


class Sentences(NamedTuple):
    """The trained model and what it has not seen: sentences for training on, and for testing."""

    model: nn.Module
    fresh: Batch
    test: Batch


def train_small_model(length: int = 16) -> Sentences:
    """Return a tiny Llama after some hundred steps on a half of Lee's news.

    Args:
        length: tokens of a sentence.
    """
    source = registry.get("dataset", "lee-news")
    data = source.make(source.config.model_validate({"length": length}))
    method = registry.get("model", "tiny-llama")
    torch.manual_seed(0)
    model = method.make(method.config(), data.spec).train()
    optimizer = Trainer(model, _RATE)
    for chosen in choices(_KNOWN, _STEPS, 0):
        optimizer.step(model, data.train.inputs[chosen], data.train.labels[chosen])
    fresh = Batch(data.train.inputs[_KNOWN:], data.train.labels[_KNOWN:])
    return Sentences(model, fresh, data.test)


def choices(examples: int, steps: int, seed: int, batch: int = _BATCH) -> list[Tensor]:
    """Return the numbers of the examples of every step: random passes, one behind the other."""
    numbers = torch.Generator().manual_seed(seed)
    passes = -(-steps * batch // examples)
    order = torch.cat([torch.randperm(examples, generator=numbers) for _ in range(passes)])
    return list(order[: steps * batch].split(batch))


class Trainer:
    """Adam, or another optimizer, on what a model trains.

    Args:
        model: with its components.
        optimizer: of the project, or the step size of Adam.
        component: one that may have a say in how far the optimizer steps.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer[Any] | float, component: ModelComponent[Any] | None = None
    ) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = optimizer if isinstance(optimizer, Optimizer) else Adam(AdamConfig(learning_rate=optimizer))
        self._component = component
        self._state: dict[str, Tensor] = {}

    def step(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
        """Take a step, and return the loss before it."""
        loss = cross_entropy(model(inputs), labels)
        gradient = torch.autograd.grad(loss, list(self.parameters.values()))
        named = dict(zip(self.parameters, gradient, strict=True))
        factors = {} if self._component is None else self._component.step_factors(self.parameters)
        self._optimizer.scaled_step(factors, self.parameters, named, self._state)
        return loss.item()
