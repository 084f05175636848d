"""What a gradient shows before any attack."""

import pytest
import torch
from torch import nn

from attacks.combined._diagnostics import leak_of
from tests.attacks.solving import toy, with_noise
from tests.federating import watched


def test_noise_is_seen_where_the_last_layer_has_more_rank_than_examples() -> None:
    observation, _, _ = watched()
    clean = leak_of(observation)
    assert not clean.is_noisy
    assert clean.layers[0].rank == clean.layers[-1].rank == 1
    assert clean.layers[0].zero_share == pytest.approx(
        float((observation.update.tensors["1.weight"] == 0).double().mean())
    )
    noisy = leak_of(with_noise(observation, 1e-3))
    assert noisy.is_noisy
    assert noisy.layers[0].zero_share == 0
    assert noisy.facts()["noise floor"] > 1e-5


@pytest.mark.parametrize("batch_size", [2, 5])
def test_ranks_and_condition_numbers_equal_the_singular_values(batch_size: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 24), nn.GELU(), nn.Linear(24, 8))
    observation, _ = toy(model, (30,), batch_size, classes=8)
    for layer in leak_of(observation).layers:
        singular = torch.linalg.svdvals(observation.update.tensors[layer.name])
        rank = int((singular > 1e-5 * singular[0]).sum())
        assert layer.rank == rank == batch_size
        assert layer.condition == pytest.approx(float(singular[0] / singular[rank - 1]), rel=1e-6)
