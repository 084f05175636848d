"""The steps of a client, from the examples of all of them."""

import pytest
import torch

from attacks.local_steps._path import follow
from attacks.local_steps.step_by_step import _as_one_step
from tests.federating import watched

KNOWS = ("batch-size", "dropout-rates", "input-statistics")


@pytest.mark.parametrize("momentum", [0.9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_steps_labels_and_scale_follow_from_directions_in_any_order(momentum):
    """A first layer without bias shows directions alone; the scale follows from the weights of the right step."""
    observation, truth, _ = watched(
        data={"name": "mnist5k", "train": 400, "test": 10},
        model={"name": "mlp", "width": 192, "depth": 2, "dropout": 0.5},
        federation={
            "algorithm": "fedavg",
            "local_steps": 3,
            "batch_size": 3,
            "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": momentum},
        },
        knows=KNOWS,
    )
    inputs = torch.cat([batch.inputs for batch in truth.batches])
    labels = torch.cat([batch.labels for batch in truth.batches])
    order = torch.tensor([8, 3, 0, 5, 7, 1, 4, 2, 6])
    path = follow(observation, _as_one_step(observation), 1.01 * inputs[order])
    assert path.residual < 1e-5
    assert [sorted(order[step].tolist()) for step in path.steps] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert torch.equal(path.labels, labels[order])
    assert torch.allclose(path.inputs, inputs[order], atol=1e-4)
