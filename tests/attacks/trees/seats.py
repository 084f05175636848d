"""What the server sees of a small federation of trees, and what attacks answer."""

from typing import Any

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Batch
from fedsim.questions.trees.types import TreesView
from tests.questions.trees.growing import tree_federation


def seat(client: int = 0, **settings: Any) -> tuple[TreesView, Batch]:
    """Return the server's view of a client, and its rows."""
    federation = tree_federation(**settings)
    run = federation.run()
    return federation.view(run, client), run.shares[client]


def answer(name: str, view: TreesView, function: str = "__call__", **settings: Any) -> Tensor:
    """Return what an attack answers."""
    method = registry.get("attack", name)
    attack = method.make(method.config.model_validate(settings))
    return getattr(attack, function)(view, torch.Generator().manual_seed(3))
