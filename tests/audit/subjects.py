"""A small subject: eight pictures in two classes, half of them for tests."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import AuditPlan
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import CheckedSubject, Subject, check_subject
from fedsim.scenario.world import World


def examples() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    return TensorDataset(torch.rand(8, 1, 4, 4, generator=generator), torch.arange(8) % 2)


def small(
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy, batch: int = 4, **more: Any
) -> CheckedSubject:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    return check_subject(Subject(model, loss, DataLoader(examples(), batch_size=batch), **more), "test")


def plan(**more: Any) -> AuditPlan:
    return AuditPlan.model_validate({"target": "test", "batches": (2,), "minutes": 1.0, **more})


def world(subject: CheckedSubject, batch: int = 2) -> World:
    return world_of(subject, plan(), batch)
