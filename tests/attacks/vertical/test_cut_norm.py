"""The class that is expected less has the longer gradients."""

import pytest
import torch

from tests.attacks.vertical.label_seats import guessed, made_seat


@pytest.mark.paper_step("cut-norm", "labels from the norms of returned gradients")
def test_lengths_tell_two_classes_while_the_probability_is_far_from_one_half() -> None:
    labels = (torch.arange(60) % 5 == 0).long()
    source = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(60, 8, generator=source).double())
    lengths = torch.where(labels == 1, 0.8, 0.2) + 0.1 * torch.rand(60, generator=source)
    assert torch.equal(guessed("cut-norm", made_seat(lengths[:, None] * unit, labels)), labels)
    assert torch.equal(guessed("cut-norm", made_seat(unit / lengths[:, None], labels)), labels)  # the other way round


def test_equal_lengths_say_nothing() -> None:
    labels = torch.arange(60) % 2
    unit = torch.nn.functional.one_hot(torch.arange(60) % 8, 8).double()
    assert len(guessed("cut-norm", made_seat(unit, labels)).unique()) == 1
