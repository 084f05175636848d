"""Images and soft labels are the unknowns."""

from dataclasses import replace

import pytest
import torch

from tests.attacks.gradient_matching.lenets import sigmoid_lenet
from tests.attacks.solving import attacked, toy


@pytest.mark.paper_step("dlg", "joint search for images and soft labels by L-BFGS")
def test_it_finds_the_label_with_the_image_and_asks_for_none() -> None:
    observation, truth = toy(sigmoid_lenet(), (1, 6, 6), 1)
    wrong = replace(observation, labels=(truth.batches[0].labels + 1) % 4)
    told, untold = (
        attacked("dlg", one, max_iterations=60, stream=3) for one in (wrong, replace(observation, labels=None))
    )
    assert torch.equal(told.labels, truth.batches[0].labels)
    assert torch.equal(told.inputs, untold.inputs)
