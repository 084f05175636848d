"""Tags through the federation: labels of tokens that are not the text itself."""

import torch

from fedsim import observe
from fedsim.data.partition import describe_partition
from fedsim.types import Batch


def test_granted_tags_of_several_steps_keep_their_sentences_and_lose_their_order() -> None:
    tags = torch.tensor([[2, 0, -100], [0, 2, 1], [0, 1, 2]])
    batch = Batch(torch.zeros(3, 3, dtype=torch.long), tags)
    assert torch.equal(observe._labels(batch, 1), tags)
    assert observe._labels(batch, 2).tolist() == [[0, 1, 2], [0, 2, 1], [2, 0, -100]]


def test_a_partition_counts_sentences_and_no_tags() -> None:
    tags = torch.tensor([[2, 0, -100], [0, 2, 1], [0, 1, 2]])
    told = describe_partition(
        (torch.tensor([0, 2]), torch.tensor([1])), tags, scheme="iid", class_names=("O", "A", "B")
    )
    assert told.class_names == ("text",)
    assert told.class_counts == ((0, (2,)), (1, (1,)))
