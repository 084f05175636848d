"""Outputs under the masks of a step, with the model left as it was."""

import torch
from torch import nn

from defenses.core.inside import outputs_of, weight_of
from fedsim.core import seeding
from fedsim.core.hooks import LocalStep
from fedsim.core.nets import masks
from fedsim.core.types import Batch


def test_outputs_are_those_of_the_step_and_running_statistics_stay() -> None:
    with seeding.isolate_randomness(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    batch = Batch(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(5, dtype=torch.long))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with masks.record_masks(model.train(), torch.Generator().manual_seed(2)) as recording:
        expected = model(batch.inputs)
    model.load_state_dict(before)
    local_step = LocalStep(
        model, dict(model.named_parameters()), batch, 5.0, tuple(recording.masks), tuple(recording.sites)
    )
    assert torch.equal(outputs_of(local_step, batch.inputs), expected)
    without = LocalStep(model, dict(model.named_parameters()), batch, 5.0)
    assert torch.equal(outputs_of(without, batch.inputs), outputs_of(without, batch.inputs))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_weight_of_a_layer_has_its_name_in_front() -> None:
    assert (weight_of("body.0"), weight_of("")) == ("body.0.weight", "weight")
