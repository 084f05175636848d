"""A guess of some examples becomes a whole batch in the order of the labels."""

from typing import Any

import torch

from attacks.core.batches import order_guess
from fedsim.core.types import Reconstruction
from tests.federating import watched

LABELS = torch.tensor([3, 1, 2])


def seen() -> Any:
    return watched(federation={"batch_size": 3}, model={"name": "mlp", "width": 8})[0]


def test_examples_take_the_places_of_their_labels() -> None:
    observation = seen()
    inputs = torch.stack([torch.full(observation.spec.shape, float(label)) for label in (2, 3, 1)])
    masks = (torch.tensor([[2.0], [3.0], [1.0]]),)
    found = order_guess(observation, Reconstruction.of(inputs, torch.tensor([2, 3, 1]), masks=masks), LABELS)
    assert found.inputs.flatten(1)[:, 0].tolist() == [3.0, 1.0, 2.0]
    assert found.masks[0].flatten().tolist() == [3.0, 1.0, 2.0]
    assert found.are_found.tolist() == [True] * 3


def test_missing_examples_are_told_apart_and_have_no_masks() -> None:
    observation = seen()
    inputs = torch.full((1, *observation.spec.shape), 1.0)
    guess = Reconstruction.of(inputs, torch.tensor([1]), masks=(torch.ones(1, 1),))
    found = order_guess(observation, guess, LABELS)
    assert found.are_found.tolist() == [False, True, False]
    assert found.masks is None
    assert torch.equal(found.inputs[1], inputs[0])


def test_labels_of_several_numbers_leave_the_order_of_the_guess() -> None:
    observation = seen()
    inputs = torch.stack([torch.full(observation.spec.shape, float(number)) for number in (1, 2)])
    found = order_guess(observation, Reconstruction.of(inputs, torch.rand(2, 4)), torch.rand(3, 4))
    assert torch.equal(found.inputs[:2], inputs)
    assert found.are_found.tolist() == [True, True, False]
