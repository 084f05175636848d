"""What a task says that says nothing of its own."""

import torch

from fedsim.core.hooks import Task
from fedsim.core.types import Batch, Dataset, InputSpec
from tests.tasks.truths import IMAGES


def test_numbers_are_shown_in_a_row_by_a_task_that_says_nothing() -> None:
    rows = torch.tensor([[0.5, -2.0], [1 / 3, 0.0]])
    batch = Batch(rows, torch.zeros(2))
    data = Dataset(batch, batch, InputSpec((2,), 1, (), ()), ())
    assert Task.show(IMAGES, rows, data) == ("0.5 -2", "0.3333 0")
