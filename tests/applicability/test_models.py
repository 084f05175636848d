"""`fedsim.which`."""

import pytest
import torch
from torch import nn

import fedsim
from fedsim.core.errors import FedsimError


def test_it_answers_for_a_model_without_data_and_leaves_it_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    before = [parameter.clone() for parameter in model.parameters()]
    found = fedsim.which(model, nn.functional.cross_entropy, shape=(1, 8, 8), classes=10)
    assert found.sentence.endswith("expect exact images from closed-form-linear within a second.")
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(FedsimError, match="batch_size is 0, expected at least 1"):
        fedsim.which(nn.Linear(2, 2), nn.functional.cross_entropy, shape=(2,), classes=2, batch_size=0)
