"""Gradients of one class point one way, however short they are."""

import pytest
import torch

from tests.attacks.vertical.label_seats import guessed, made_seat, trained_seat


@pytest.mark.paper_step("cut-direction", "labels from the directions of returned gradients")
def test_every_label_of_two_classes_is_read_from_one_known_example_each() -> None:
    view, labels = trained_seat(5)
    assert torch.equal(guessed("cut-direction", view), labels)


def test_three_directions_tell_three_classes_and_lengths_do_not_count() -> None:
    labels = torch.arange(60) % 3
    source = torch.Generator().manual_seed(0)
    axes = torch.eye(3, 8).double()[labels] + 0.1 * torch.randn(60, 8, generator=source)
    lengths = 10.0 ** (-torch.arange(60).double() / 4)  # down to 1e-15, where an epsilon of 1e-8 would hide them
    assert torch.equal(guessed("cut-direction", made_seat(lengths[:, None] * axes, labels, 3)), labels)
