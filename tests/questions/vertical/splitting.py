"""A small split federation of made rows, for tests of what crosses its cut."""

from typing import Any

import torch

from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.questions.vertical.observe import SplitFederation
from fedsim.questions.vertical.training import SplitTraining


def rows_of_classes(count: int, columns: int, classes: int, seed: int, spread: float = 1.0) -> Batch:
    """Rows around one centre a class."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, columns, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return Batch(centres[labels] + spread * torch.randn(count, columns, generator=source), labels)


def split_federation(
    classes: int = 2, columns: int = 20, count: int = 300, watched: tuple[int, ...] = (1,), **settings: Any
) -> SplitFederation:
    """Two parties with half of the columns each."""
    half = columns // 2
    parties = [{"name": "a", "columns": (0, half)}, {"name": "b", "columns": (half, columns)}]
    table = {"parties": parties, "epochs": max(watched), **settings}
    dataset = Dataset(
        rows_of_classes(count, columns, classes, 0),
        rows_of_classes(200, columns, classes, 1),
        InputSpec((columns,), classes, (0.0,) * columns, (1.0,) * columns),
        tuple(map(str, range(classes))),
    )
    return SplitFederation(SplitTraining.model_validate(table), dataset, 5, frozenset(watched))
