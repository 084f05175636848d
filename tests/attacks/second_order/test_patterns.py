"""Switches far from their kink are fixed as they are at a guess; those near it are left to be solved for."""

import pytest
import torch
from torch import nn

from attacks.second_order._patterns import pattern_near
from attacks.second_order._switches import switch_units
from tests.attacks.second_order.solved import lenet, toy


@pytest.mark.parametrize("margin", [0.0, 0.3, 1e9])
def test_a_switch_is_fixed_exactly_where_its_unit_is_further_away_than_the_margin(margin: float) -> None:
    observation, truth = toy(lenet(1, 8, 4, 0.0, nn.ReLU), (1, 8, 8), 1, classes=10)
    smooth, switches = switch_units(observation)
    inputs, before = truth.batches[0].inputs, list[torch.Tensor]()
    relus = [module for module in observation.model.modules() if isinstance(module, nn.ReLU)]
    handles = [own.register_forward_pre_hook(lambda _module, given: before.append(given[0].detach())) for own in relus]
    observation.model(inputs)
    for handle in handles:
        handle.remove()
    pattern = pattern_near(observation, smooth, switches, inputs, None, margin)
    assert len(switches) == len(before) == 3
    unfixed = 0
    for switch, value in zip(switches, before, strict=True):
        mask, start = pattern.masks[switch].view(value.shape), pattern.start[switch].view(value.shape)
        is_far = value.abs() > margin * value.square().mean().sqrt()
        is_fixed = ~mask.isnan()
        assert bool(is_fixed[is_far].all())
        assert torch.equal(mask[is_fixed & is_far], (value > 0).to(mask)[is_fixed & is_far])
        assert torch.equal(start, (value > 0).to(start))
        unfixed += int(mask.isnan().sum())
    assert (unfixed == 0) == (margin == 0.0)
