"""What the head read, and the derivative of the loss by it."""

import pytest
import torch
from torch import Tensor, nn

from attacks.core.labels import labels_of
from attacks.second_order._head_reading import read_head
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import Observation, Truth
from tests.attacks.second_order.residual import residual
from tests.attacks.second_order.solved import toy


@pytest.mark.parametrize(("count", "rate"), [(1, 0.0), (1, 0.5), (2, 0.0)])
def test_features_cotangent_and_masks_are_those_of_the_client(count: int, rate: float) -> None:
    observation, truth = toy(residual(4, 8, rate=rate), (1, 8, 8), count, classes=10, seed=3)
    labels = labels_of(observation)
    order = truth.batches[0].labels.argsort() if count > 1 else torch.arange(1)
    head = read_head(observation, "8", (count, 8, 1, 1), truth.batches[0].labels[order], torch.Generator())
    pooled, loss = _features(observation, truth)
    (cotangent,) = torch.autograd.grad(loss, pooled)
    assert len(labels) == count
    known = head.output.is_known
    # The separation of a batch ends at a relative change of about 1e-8.
    torch.testing.assert_close(head.output.values[known], pooled.detach()[order][known], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(head.output.cotangent, cotangent[order], rtol=1e-6, atol=1e-9)
    for mask, true in zip(head.masks, truth.masks[0], strict=True):
        assert torch.equal(mask, true)
        assert torch.equal(known.view(mask.shape), mask > 0)


def _features(observation: Observation, truth: Truth) -> tuple[Tensor, Tensor]:
    assert isinstance(observation.model, nn.Sequential)
    pooled = observation.model[:6](truth.batches[0].inputs).detach().requires_grad_()
    with inject_masks(observation.sites, truth.masks[0]):
        outputs = observation.model[6:](pooled)
    return pooled, observation.loss(outputs, truth.batches[0].labels)
