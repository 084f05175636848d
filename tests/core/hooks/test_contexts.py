"""A local step's forward passes drop out as the client's did, or not at all."""

import torch
from torch import nn

from fedsim.core.hooks import HookContext, LocalStep
from fedsim.core.nets import masks
from fedsim.core.types import Batch


def test_masks_of_the_step_are_those_of_its_forward_passes() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5)).train()
    batch = Batch(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))
    with masks.record_masks(model, torch.Generator().manual_seed(0)) as recording:
        expected = model(batch.inputs)
    parameters = dict(model.named_parameters())
    local_step = LocalStep(model, parameters, batch, 2.0, tuple(recording.masks), tuple(recording.sites))
    with local_step.apply_masks():
        assert torch.equal(model(batch.inputs), expected)
    with LocalStep(model, parameters, batch, 2.0).apply_masks():
        assert torch.equal(model(batch.inputs), model[0](batch.inputs))


def test_memory_and_draws_are_each_contexts_own() -> None:
    one, other = (HookContext(1, client, 0, torch.Generator()) for client in (0, 1))
    one.memory["a"] = one.draws["b"] = torch.ones(1)
    assert not other.memory
    assert not other.draws
