"""A small language model that knows some news."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.components.optimizer.adam import Adam, AdamConfig
from fedsim.core.nets.losses import cross_entropy
from fedsim.scenario import Choice

_STEPS, _BATCH, _RATE = 600, 32, 3e-3
_KNOWN = 1000  # training sentences that the model learns; the others are for adapters and victims


def train_small_model(length: int = 16) -> nn.Module:
    """Return a tiny Llama after some hundred steps on a half of Lee's news, sentences of `length` tokens."""
    data = Choice(name="lee-news", settings={"length": length}).make("dataset")
    torch.manual_seed(0)
    model = Choice(name="tiny-llama").make("model", data.spec).train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    numbers, passes = torch.Generator().manual_seed(0), -(-_STEPS * _BATCH // _KNOWN)
    order = torch.cat([torch.randperm(_KNOWN, generator=numbers) for _ in range(passes)])[: _STEPS * _BATCH]
    optimizer, state = Adam(AdamConfig(learning_rate=_RATE)), dict[str, Tensor]()
    for batch in map(data.train.select, order.split(_BATCH)):
        gradient = torch.autograd.grad(cross_entropy(model(batch.inputs), batch.labels), list(parameters.values()))
        optimizer.scaled_step({}, parameters, dict(zip(parameters, gradient, strict=True)), state)
    return model
