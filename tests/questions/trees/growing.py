"""A small federation of trees over made rows, for tests of what its clients send."""

from typing import Any

import torch

from fedsim.core import registry
from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.questions.trees.observe import TreeFederation
from fedsim.questions.trees.training import TreeTraining


def made_rows(count: int, columns: int, seed: int, numbers: bool = False) -> Batch:
    """Rows whose label, a class or a number of its own, follows the first two columns."""
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, columns, generator=source)
    score = inputs[:, 0] + 0.5 * inputs[:, 1] + 0.7 * torch.randn(count, generator=source)
    return Batch(inputs, score[:, None] if numbers else (score > 0.2).long())


def tree_federation(
    numbers: bool = False, seed: int = 5, columns: int = 6, defense: dict[str, Any] | None = None, **settings: Any
) -> TreeFederation:
    """Two clients of forty rows each."""
    table = {"clients": 2, "rows": 40, "trees": 3, **settings}
    spec = InputSpec((columns,), 1 if numbers else 2, (0.0,) * columns, (1.0,) * columns)
    names = ("number",) if numbers else ("no", "yes")
    dataset = Dataset(made_rows(200, columns, seed, numbers), made_rows(100, columns, seed + 1, numbers), spec, names)
    made = None
    if defense is not None:
        method = registry.get("defense", defense["name"])
        made = method.make(method.config.model_validate({k: v for k, v in defense.items() if k != "name"}))
    return TreeFederation(TreeTraining.model_validate(table), dataset, seed, made)
