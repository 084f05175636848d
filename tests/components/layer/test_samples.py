"""Samples may begin at maps, mirrored or shifted."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import seeding
from fedsim.core.nets.masks import inject_masks
from tests.components.layer.sampling import CLASSES, RATE, component, drawn


def convolutional() -> nn.Module:
    with seeding.isolate_randomness(5):
        layers = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(RATE)]
        return nn.Sequential(*layers, nn.Linear(32, CLASSES))


@pytest.mark.paper_step("multi-sample-dropout", "mirrored and shifted feature maps")
@pytest.mark.parametrize(
    "settings", [{"flip_half": True}, {"shift_pooling": True, "at": "2"}, {"at": "2"}, {"at": "3"}]
)
def test_samples_may_begin_at_maps_and_see_them_mirrored_or_shifted(settings: dict[str, Any]) -> None:
    settings = {"samples": 4, "at": "3", **settings}
    model = component(**settings).prepare(convolutional(), torch.Generator())
    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    _, sites, (mask,) = drawn(model, image)
    with inject_masks(sites, (torch.ones_like(mask),)):
        outputs = model(image)
    twin = convolutional()
    maps = torch.relu(twin[0](image))  # type: ignore[index]
    expected = []
    for m in range(4):
        own = maps
        if settings.get("shift_pooling"):
            own = F.pad(maps, (m % 2, 0, m // 2, 0))[..., :8, :8]
        pooled = F.max_pool2d(own, 2)
        if settings.get("flip_half") and m % 2:
            pooled = pooled.flip(-1)
        expected.append(twin[5](pooled.flatten(1) / (1.0 - RATE)))  # type: ignore[index]
    assert torch.allclose(outputs, torch.stack(expected, 1), atol=1e-5)
