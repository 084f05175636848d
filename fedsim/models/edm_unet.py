"""EDM U-Net: a small denoiser of images with noise of known standard deviation.

Paper: Karras et al. 2022, arXiv 2206.00364, table 1: D(x, s) = c_skip x + c_out F(c_in x, ln(s) / 4),
c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2); d is the data's standard
deviation. F has residual blocks, attention at the lowest resolution, and a skip from each block of the encoder to the
decoder. Leakage: convolutions see the noisy image, and the gradient of the last convolution weights it by the output
error, so the update mixes image and noise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.skips import Skip
from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._attention import attention_weights
from fedsim.models._inputs import image_shape

_GROUPS = 8
_FASTEST, _SLOWEST = 32.0, 1.0  # frequencies of the embedding of ln(s) / 4, which lies between -2 and 2


class EdmUnetConfig(Config):
    """Settings of the U-Net."""

    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping an entry inside a block")
    width: int = Field(default=32, ge=8, multiple_of=8, description="channels at the highest resolution")
    multipliers: tuple[int, ...] = Field(
        default=(1, 2), min_length=1, description="channels of each level over the width; each halves the resolution"
    )
    blocks: int = Field(default=2, ge=1, description="residual blocks of a level of the encoder")
    data_std: float = Field(default=1.0, gt=0, description="d, the standard deviation of normalised images")
    classes: bool = Field(default=False, description="whether the class of an image is an input, for guidance")


@model("edm-unet", summary="small denoiser of images with EDM's preconditioning", paper="2206.00364")
def edm_unet(config: EdmUnetConfig, spec: InputSpec) -> nn.Module:
    """Build the model.

    Raises:
        FedsimError: the inputs are not images, or their sides cannot be halved often enough.
    """
    _, height, width = image_shape(spec, "edm-unet")
    factor = 2 ** (len(config.multipliers) - 1)
    if height % factor or width % factor:
        raise FedsimError(
            f"model 'edm-unet' halves images {len(config.multipliers) - 1} times, and they have "
            f"{height} x {width} pixels: expected multiples of {factor}. Set data.size to such "
            "a multiple, or shorten model.multipliers."
        )
    return EdmUnet(config, spec)


class EdmUnet(nn.Module):
    """Noisy images (B, C, H, W) to denoised images.

    Attributes:
        classes: number of classes as condition; 0 for an unconditional model.
    """

    def __init__(self, config: EdmUnetConfig, spec: InputSpec) -> None:
        super().__init__()
        self._std = config.data_std
        self.classes = spec.classes if config.classes else 0
        self.network = _Network(config, spec)

    def forward(self, x: Tensor, noise: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return the denoised images.

        Args:
            x: noisy images.
            noise: standard deviation of the noise in each image, shape (B,); that of the data if absent.
            labels: class of each image, shape (B,), or -1 for none; none if absent.
        """
        variance = self._std**2
        s = x.new_full((len(x),), self._std) if noise is None else noise
        level = s.view(-1, *[1] * (x.ndim - 1))
        total = level.square() + variance
        known = torch.full((len(x),), -1, device=x.device) if labels is None else labels
        answer = self.network(x / total.sqrt(), s.log() / 4, known)
        return variance / total * x + level * self._std / total.sqrt() * answer


class _Network(nn.Module):
    """F: scaled images, ln(s) / 4 and classes to an image of unit size."""

    def __init__(self, config: EdmUnetConfig, spec: InputSpec) -> None:
        super().__init__()
        channels, hidden = spec.shape[0], 4 * config.width
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.embed_noise = nn.Sequential(nn.Linear(config.width, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.embed_class = nn.Embedding(spec.classes + 1, hidden) if config.classes else None
        self.stem = nn.Conv2d(channels, config.width, 3, padding=1)

        def block(inputs: int, outputs: int) -> _Block:
            return _Block(inputs, outputs, hidden, config.dropout)

        stored, width = [config.width], config.width
        self.encoder = nn.ModuleList()
        for level, level_width in enumerate(widths):
            for _ in range(config.blocks):
                self.encoder.append(block(width, level_width))
                stored.append(width := level_width)
            if level < len(widths) - 1:
                self.encoder.append(nn.Conv2d(level_width, level_width, 3, stride=2, padding=1))
                stored.append(level_width)
        self.middle = nn.ModuleList((block(width, width), _Attention(width), block(width, width)))
        self.decoder = nn.ModuleList()
        self.joins = nn.ModuleList(Skip() for _ in stored)
        for level, level_width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.decoder.append(block(width + stored.pop(), level_width))
                width = level_width
            if level:
                self.decoder.append(_Larger(level_width))
        self.end = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        condition = self.embed_noise(_waves(noise, _first(self.embed_noise).in_features))
        if self.embed_class is not None:
            condition = condition + self.embed_class(labels + 1)
        condition = F.silu(condition)
        stored = [hidden := self.stem(x)]
        for part in self.encoder:
            stored.append(hidden := part(hidden, condition) if isinstance(part, _Block) else part(hidden))
        for part in self.middle:
            hidden = part(hidden, condition) if isinstance(part, _Block) else part(hidden)
        joins = iter(self.joins)
        for part in self.decoder:
            is_block = isinstance(part, _Block)
            hidden = part(next(joins)(hidden, stored.pop()), condition) if is_block else part(hidden)
        return self.end(hidden)


class _Block(nn.Module):
    """Two convolutions with a shortcut; the condition is added between them."""

    def __init__(self, inputs: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first_norm, self.first = nn.GroupNorm(_GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.condition = nn.Linear(hidden, outputs)
        self.norm, self.dropout = nn.GroupNorm(_GROUPS, outputs), nn.Dropout(dropout)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.first_norm(x))) + self.condition(condition)[:, :, None, None]
        return self.second(self.dropout(F.silu(self.norm(hidden)))) + self.shortcut(x)


class _Attention(nn.Module):
    """Single-head attention over all pixels, written out for second derivatives."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.read = nn.GroupNorm(_GROUPS, width), nn.Conv2d(width, 3 * width, 1)
        self.write = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.read(self.norm(x)).flatten(2).chunk(3, 1)
        weights = attention_weights(queries.mT, keys.mT)
        return x + self.write((values @ weights.mT).view_as(x))


class _Larger(nn.Module):
    """Doubles the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _first(layers: Any) -> Any:
    return layers[0]


def _waves(numbers: Tensor, size: int) -> Tensor:
    """Return cosines and sines (B, size) of numbers (B,)."""
    spread = torch.linspace(math.log(_SLOWEST), math.log(_FASTEST), size // 2, dtype=numbers.dtype).exp()
    angles = numbers[:, None] * spread.to(numbers.device)
    return torch.cat((angles.cos(), angles.sin()), 1)
