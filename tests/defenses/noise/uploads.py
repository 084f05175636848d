"""Uploads of clients whose updates are clipped and get noise."""

from collections.abc import Callable
from typing import Any

import torch

from fedsim.core import registry
from fedsim.core.hooks import Defense, HookContext
from fedsim.core.types import Tensors, Update
from fedsim.scenario import Scenario

Build = Callable[..., Scenario]
SECURE = {"threat": {"view": "sum"}, "secure_aggregation": {"mode": "ideal"}}


def make(name: str, **settings: Any) -> Defense[Any]:
    method = registry.get("defense", name)
    return method.make(method.config.model_validate(settings))


def sent(defense: Defense[Any], tensors: Tensors, buffers: Tensors | None = None, seed: int = 0) -> Update:
    here = HookContext(1, 0, 1, torch.Generator().manual_seed(seed))
    return defense.on_upload(Update("delta", tensors, buffers or {}, 17, 2.5), here)
