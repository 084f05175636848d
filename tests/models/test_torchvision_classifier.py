"""Classifiers of torchvision: what is built, and what is refused."""

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.models.torchvision_classifier import TorchvisionConfig, torchvision
from tests.models.sizes import images, spec


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"classifier": "resnet81"}, (3, 32, 32), "Did you mean 'resnet18'"),
        ({"classifier": "resnet18", "dropout": 0.1}, (3, 32, 32), "no argument dropout"),
        ({"classifier": "alexnet"}, (3, 32, 32), "cannot process 32 x 32 pixels.*Set data.size"),
        ({"classifier": "resnet18"}, (4, 32, 32), "1 or 3 channels, got 4"),
    ],
)
def test_torchvision_says_what_it_cannot_build(
    settings: dict[str, object], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(FedsimError, match=f"(?s){message}"):
        torchvision(TorchvisionConfig.model_validate(settings), spec(*shape))


def test_torchvision_repeats_grey_images() -> None:
    with seeding.isolate_randomness(0):
        grey = torchvision(TorchvisionConfig(classifier="squeezenet1_1"), spec(1, 32, 32)).eval()
    with seeding.isolate_randomness(0):
        colour = torchvision(TorchvisionConfig(classifier="squeezenet1_1"), spec(3, 32, 32)).eval()
    pixels = images(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(grey(pixels), colour(pixels.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("classifier", ["googlenet", "mobilenet_v3_small"])
def test_torchvision_builds_plain_classifiers_and_leaves_their_buffers(classifier: str) -> None:
    with seeding.isolate_randomness(0):
        model = torchvision(TorchvisionConfig(classifier=classifier), spec(3, 32, 32))
    buffers = dict(model.named_buffers())
    assert all(not buffer.is_meta for buffer in buffers.values())
    assert all(int(buffer) == 0 for name, buffer in buffers.items() if name.endswith("num_batches_tracked"))
    assert model(images(2, 3, 32, 32)).shape == (2, 10)
