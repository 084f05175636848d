"""Arrays of batch normalisation are recognised as PyTorch itself names them, and nothing else is."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torchvision.models import densenet121, resnet18

from fedsim.privacy.batch_norm import RunningStatistics, is_running_statistic, returned_arrays


def is_inexact(state: Mapping[str, torch.Tensor]) -> dict[str, bool]:
    return {name: tensor.is_floating_point() or tensor.is_complex() for name, tensor in state.items()}


@pytest.mark.parametrize("build", [resnet18, densenet121])
def test_the_buffers_of_known_networks_are_recognised_and_no_parameter_is(build) -> None:
    model = build()
    floating = {name for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    assert {name for name in model.state_dict() if is_running_statistic(name)} == floating
    state = model.state_dict()
    assert returned_arrays(is_inexact(state), "received") == dict(model.named_buffers()).keys()
    assert returned_arrays(is_inexact(state), "noised") == dict(model.named_buffers()).keys() - floating


@pytest.mark.parametrize("name", ["running_mean", "a.b.running_var"])
def test_a_name_counts_by_its_last_part(name: str) -> None:
    assert is_running_statistic(name)


@pytest.mark.parametrize("name", ["weight", "running_mean.weight", "a.not_running_mean", "running_means", ""])
def test_other_names_do_not_count(name: str) -> None:
    assert not is_running_statistic(name)


@pytest.mark.parametrize("choice", ["received", "noised"])
def test_integers_booleans_and_counters_of_any_type_are_returned(choice: RunningStatistics) -> None:
    received = {
        "weight": torch.ones(2),
        "half": torch.ones(2, dtype=torch.float16),
        "complex": torch.ones(2, dtype=torch.complex64),
        "steps": torch.tensor(3),
        "bytes": torch.ones(2, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
        "bn.num_batches_tracked": torch.tensor(3.0),
    }
    assert returned_arrays(is_inexact(received), choice) == {"steps", "bytes", "mask", "bn.num_batches_tracked"}


def test_a_network_without_batch_normalisation_has_none() -> None:
    state = nn.Sequential(nn.Linear(3, 2), nn.GroupNorm(1, 2)).state_dict()
    assert returned_arrays(is_inexact(state), "received") == set()
