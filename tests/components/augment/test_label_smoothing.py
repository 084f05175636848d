"""Label smoothing against its definition, with hard and with mixed labels."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fedsim.core.errors import FedsimError
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

Build = Callable[..., Scenario]
SMOOTHING = {"name": "label-smoothing", "smoothing": 0.2}


def test_it_moves_a_share_to_all_classes(scenario: Build) -> None:
    world = worlds.build(scenario(components=[SMOOTHING], federation={"batch_size": 3}))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    labels = truth.original_batches[0].labels
    assert torch.allclose(truth.batches[0].labels, torch.where(F.one_hot(labels, 10) == 1, 0.82, 0.02))
    assert torch.equal(truth.batches[0].inputs, truth.original_batches[0].inputs)
    assert update.loss > 0


@pytest.mark.paper_step("label-smoothing", "labels mixed with the uniform distribution")
def test_the_loss_is_that_of_torch(scenario: Build) -> None:
    world = worlds.build(scenario(model={"name": "mlp", "dropout": 0.0}, components=[SMOOTHING]))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    with torch.no_grad():
        outputs = world.models.load_weights(world.models.first_weights)(truth.original_batches[0].inputs)
    expected = F.cross_entropy(outputs, truth.original_batches[0].labels, label_smoothing=0.2)
    assert update.loss == pytest.approx(float(expected), rel=1e-6)


def test_mixed_labels_are_smoothed_too(scenario: Build) -> None:
    mixing = {"name": "cutmix", "mode": "mixup", "probability": 1.0}
    federation = {"batch_size": 4, "clients": 2}
    mixed, both = (
        local_training(world, world.models.first_weights, 1, 0)[1].batches[0].labels
        for world in (
            worlds.build(scenario(components=own, federation=federation)) for own in ([mixing], [mixing, SMOOTHING])
        )
    )
    assert torch.allclose(both, 0.8 * mixed + 0.02)


def test_a_share_above_one_is_refused(scenario: Build) -> None:
    with pytest.raises(FedsimError, match="less than or equal to 1, got 1.5"):
        scenario(components=[{"name": "label-smoothing", "smoothing": 1.5}])
