"""Statistics of activations, beside a forward pass layer by layer."""

import pytest
import torch
from torch import nn

from attacks.core.matching.priors.batch_statistics import StatisticsDistance
from fedsim.core.nets.masks import inject_masks
from tests.attacks.core.matching.normalised import normalised
from tests.attacks.solving import toy


@pytest.mark.paper_step("gradinversion", "prior of batch statistics")
def test_statistics_are_compared_layer_by_layer_under_the_masks() -> None:
    observation, truth = toy(normalised(0.5), (1, 8, 8), 3)
    model, inputs, masks = observation.model, truth.batches[0].inputs, truth.masks[0]
    ours = StatisticsDistance(observation, observation.sites)(inputs[None], (masks[0][None],))
    expected, hidden = 0.0, inputs
    with torch.no_grad(), inject_masks(observation.sites, masks):
        for layer in model:  # type: ignore[union-attr]
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                values = hidden.transpose(0, 1).flatten(1)
                expected += float((values.mean(1) - layer.running_mean).norm())
                expected += float((values.var(1, correction=0) - layer.running_var).norm())
                hidden = torch.nn.functional.batch_norm(hidden, None, None, layer.weight, layer.bias, training=True)
            else:
                hidden = layer(hidden)
    assert float(ours) == pytest.approx(expected, rel=1e-9)
