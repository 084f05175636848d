"""What data sets of tables share."""

import torch

from fedsim.core.types import Batch
from fedsim.data._tables import one_hot, split_rows, standardise_table


def test_a_category_has_one_column_for_each_value() -> None:
    assert one_hot(torch.tensor([3.0, 1.0, 3.0])).tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def test_rows_are_parted_once_and_scaled_by_the_training_rows() -> None:
    rows = Batch(torch.arange(20.0).view(10, 2), torch.arange(10))
    train, test = split_rows(rows, 0.3, 1)
    assert sorted([*train.labels.tolist(), *test.labels.tolist()]) == list(range(10))
    assert (len(train), len(test)) == (7, 3)
    assert torch.equal(train.inputs[:, 0], 2.0 * train.labels)
    data = standardise_table(train, test, ("a", "b"))
    assert torch.allclose(data.train.inputs.mean(0), torch.zeros(2), atol=1e-6)
    plain = data.train.inputs * torch.tensor(data.spec.std) + torch.tensor(data.spec.mean)
    assert torch.allclose(plain.aminmax(dim=0).max, torch.ones(2))
