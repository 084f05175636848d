"""A young top pulls every class its own way."""

import torch

from tests.attacks.vertical.label_seats import guessed, made_seat, trained_seat


def test_labels_of_ten_classes_are_read_without_knowing_the_top() -> None:
    view, labels = trained_seat(1, classes=10, width=32)
    assert int((guessed("cut-clusters", view) == labels).sum()) > 180  # of 200; nine in ten


def test_heaps_are_named_once_each_by_known_examples() -> None:
    labels = torch.arange(30) % 3
    points = torch.eye(3, 8).double()[labels]
    assert torch.equal(guessed("cut-clusters", made_seat(points, labels, 3)), labels)
