"""Batches whose mixtures show their weights."""

from typing import Any

import torch
from torch import nn

from fedsim.core.hooks import Defense, HookContext, LocalStep
from fedsim.core.types import Batch

CLASSES = 5


def mixed(defense: Defense[Any], batch: Batch, seed: int = 0) -> Batch:
    model = nn.Sequential(nn.Flatten(), nn.Linear(batch.inputs[0].numel(), CLASSES))
    local = LocalStep(model, dict(model.named_parameters()), batch, len(batch))
    return defense.on_batch(batch, HookContext(1, 0, 0, torch.Generator().manual_seed(seed), local=local))


def distinct(examples: int) -> Batch:
    """Examples that are unit vectors, so that mixtures show their weights, with labels of their own."""
    return Batch(torch.eye(examples).view(examples, 1, 1, examples), torch.arange(examples) % CLASSES)
