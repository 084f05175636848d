"""Patch diffusion: generates an image patch by patch, each by a small diffusion head after a causal transformer.

Paper: Li, Tian, Li, Deng, He 2024, arXiv 2406.11838 (MAR): a transformer maps the previous patches to a condition, and
an MLP denoises the next patch given this condition. Here blocks are Llama's, with learned positions in addition to
rotary positions, and the head has T levels of a cosine schedule (Nichol, Dhariwal 2021, arXiv 2102.09672). Patches come
in raster order, or in any order: then every token also embeds the next position (Pannatier et al. 2024, arXiv
2404.09562). Fixed variances: the last step keeps the noise of the previous level, so that every step is a Gaussian.
Learned variances: the head predicts its squared noise error, and the variance is that of the posterior (Bao et al.
2022, arXiv 2206.07309) within the range of Nichol and Dhariwal. Leakage: the input layer sees the patches without
noise, so its gradient mixes few vectors.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import model
from fedsim.core.types import Config, InputSpec
from fedsim.models._inputs import image_shape
from fedsim.models._llama_block import LlamaBlock

_STD, _OFFSET, _MOST_NOISE, _LEAST_STD = 0.02, 0.008, 0.999, 1e-3
_LARGEST = 3.0  # bound of a normalised pixel in the predicted patch


class PatchDiffusionConfig(Config):
    """Settings of patch diffusion."""

    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability p of dropping an entry in a block")
    patch: int = Field(default=4, ge=1, description="pixels a side of a patch")
    width: int = Field(default=128, ge=1, description="size of a token, a multiple of twice the heads")
    blocks: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    hidden: int = Field(default=256, ge=1, description="units between the layers of a block's MLP")
    head_width: int = Field(default=128, ge=1, description="units of the diffusion head")
    head_layers: int = Field(default=3, ge=1)
    levels: int = Field(default=20, ge=2, description="T, noise levels of the head")
    classes: bool = Field(default=False, description="whether the class of an image is an input")
    variance: Literal["fixed", "learned"] = Field(
        default="fixed", description="of the head's steps; learned: the head says how far its noise is off, too"
    )
    order: Literal["reading", "random"] = Field(
        default="reading", description="of patches; random: any, with the next position as an input of the model"
    )
    base: float = Field(default=10_000.0, gt=1, description="base of the rotary positions' wavelengths, in patches")
    epsilon: float = Field(default=1e-5, gt=0, description="added to the mean square in every norm")

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads: as many as heads."""
        return self.heads


@model("patch-diffusion", summary="draws images patch by patch, by a diffusion head", paper="2406.11838")
def patch_diffusion(config: PatchDiffusionConfig, spec: InputSpec) -> nn.Module:
    """Build the model.

    Raises:
        FedsimError: the inputs are not images that are divisible into patches, or the heads do not divide the width.
    """
    _, height, width = image_shape(spec, "patch-diffusion")
    if height % config.patch or width % config.patch:
        raise FedsimError(
            f"model 'patch-diffusion' cuts patches of {config.patch} pixels a side, which do not fill {height} x "
            f"{width}. Set model.patch to a divisor of both."
        )
    if config.width % (2 * config.heads):
        raise FedsimError(
            f"model 'patch-diffusion' has {config.heads} heads and width {config.width}: expected a width that is a "
            f"multiple of {2 * config.heads}."
        )
    return PatchDiffusion(config, spec)


class PatchDiffusion(nn.Module):
    """Images (B, C, H, W) and noise to the predicted noise of each patch, given the previous patches.

    Attributes:
        shape: shape of an image.
        patches: n, number of patches of an image.
        size: m, number of entries of a patch.
        levels: T, noise levels of the head.
        classes: number of classes as condition; 0 for an unconditional model.
        order: `reading` for raster order, or `random` for any order.
        share: share of signal variance at each level from 0 to T.
    """

    share: Tensor

    def __init__(self, config: PatchDiffusionConfig, spec: InputSpec) -> None:
        super().__init__()
        channels, height, width = spec.shape
        self.shape, self._side = (channels, height, width), config.patch
        self.patches = (height // config.patch) * (width // config.patch)
        self.size, self.levels = channels * config.patch**2, config.levels
        self.classes = spec.classes if config.classes else 0
        self.order, self._is_learned = config.order, config.variance == "learned"
        self.begin = nn.Embedding(self.classes + 1, config.width)
        self.read = nn.Linear(self.size, config.width)
        self.positions = nn.Embedding(self.patches + 1, config.width)
        self.blocks = nn.ModuleList(LlamaBlock(config) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(config.width, eps=config.epsilon)
        self.ahead = nn.Embedding(self.patches, config.width) if config.order == "random" else None
        self.head = _Head(self.size, 2 * self.size if self._is_learned else self.size, config)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_STD)
        self.register_buffer("share", _cosine(config.levels), persistent=False)

    def forward(
        self,
        images: Tensor,
        time: Tensor | None = None,
        pixel_noise: Tensor | None = None,
        labels: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        """Return the predicted noise as images; learned variances add channels with the log of its squared error.

        Args:
            images: without noise, shape (B, C, H, W); a patch is conditioned on the previous patches only.
            time: noise level of each image in [0, 1), from little noise to much; 0.5 if absent.
            pixel_noise: standard normal noise of the images' shape; none if absent.
            labels: class of each image, shape (B,), or -1 for none; none if absent.
            order: numbers (B, H, W); patches are sorted by the number of their first pixel. Raster order if absent.
        """
        places = None if order is None else self.cut(order[:, None])[..., 0].argsort(1)
        patches = _reorder_patches(self.cut(images), places)
        moment = images.new_full((len(images),), 0.5) if time is None else time
        level = 1 + (moment * self.levels).long().clamp_max(self.levels - 1)
        share = self.share.to(patches)[level].view(-1, 1, 1)
        noise = torch.zeros_like(patches) if pixel_noise is None else _reorder_patches(self.cut(pixel_noise), places)
        noisy = share.sqrt() * patches + (1 - share).sqrt() * noise
        conditions = self.conditions(patches[:, :-1], labels, places)
        outputs = self.head(noisy, level[:, None].expand(-1, self.patches), conditions)
        of_reading = _reorder_patches(outputs, None if places is None else places.argsort(1))
        return torch.cat([self.join(part) for part in of_reading.split(self.size, -1)], 1)

    def conditions(self, patches: Tensor, labels: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        """Return the conditions (B, k + 1, width) of the given patches and of the next patch.

        Args:
            patches: the first k patches, shape (B, k, m); with `order = random`, k must be below n.
            labels: class of each image, shape (B,), or -1 for none; none if absent.
            order: positions of all patches, shape (B, n); raster order if absent.
        """
        count, size = patches.shape[:2]
        known = torch.full((count,), -1, device=patches.device) if labels is None or not self.classes else labels
        hidden = torch.cat((self.begin(known + 1)[:, None], self.read(patches)), 1)
        places = torch.arange(self.patches, device=patches.device).expand(count, -1) if order is None else order
        hidden = hidden + self.positions(F.pad(places[:, :size] + 1, (1, 0)))
        if self.ahead is not None:
            hidden = hidden + self.ahead(places[:, : size + 1])
        mask = torch.full((size + 1, size + 1), -torch.inf, dtype=hidden.dtype, device=hidden.device).triu(1)
        for block in self.blocks:
            hidden = block(hidden, attention_mask=mask)
        return self.norm(hidden)

    def reverse(self, x: Tensor, level: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of patches (B, m) one level down, given their conditions (B, width)."""
        share_now, before = self.share.to(x)[level], self.share.to(x)[level - 1]
        outputs = self.head(x, torch.full((len(x),), level, device=x.device), condition)
        noise, log_error = outputs[..., : self.size], outputs[..., self.size :]
        patch = ((x - (1 - share_now).sqrt() * noise) / share_now.sqrt()).clamp(-_LARGEST, _LARGEST)
        step = share_now / before
        mean = (before.sqrt() * (1 - step) * patch + step.sqrt() * (1 - before) * x) / (1 - share_now)
        if not self._is_learned:
            return mean, self._variance(max(level, 2)).sqrt().clamp_min(_LEAST_STD).to(x).expand_as(x)
        slope = (1 - step) / (step * (1 - share_now)).sqrt()  # derivative of the mean in the noise
        variance = (self._variance(level).to(x) + slope.square() * log_error.exp()).minimum(1 - step)
        return mean, variance.sqrt().clamp_min(_LEAST_STD)

    def cut(self, images: Tensor) -> Tensor:
        """Return the patches (B, n, m) of images, in raster order."""
        return F.unfold(images, self._side, stride=self._side).mT

    def join(self, patches: Tensor) -> Tensor:
        """Return the images (B, C, H, W) of patches (B, n, m)."""
        return F.fold(patches.mT, self.shape[1:], self._side, stride=self._side)

    def _variance(self, level: int) -> Tensor:
        """Return the posterior variance of a step down, given the patch without noise."""
        share_now, before = self.share[level], self.share[level - 1]
        return (1 - before) / (1 - share_now) * (1 - share_now / before)


def _reorder_patches(patches: Tensor, places: Tensor | None) -> Tensor:
    """Return patches (B, n, m) in the order of positions (B, n)."""
    return patches if places is None else patches.gather(1, places[..., None].expand_as(patches))


class _Head(nn.Module):
    """Noisy patches (..., m), levels (...) and conditions (..., width) to `outputs` numbers per patch."""

    def __init__(self, size: int, outputs: int, config: PatchDiffusionConfig) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(size, config.head_width), nn.Linear(config.head_width, outputs)
        self.condition = nn.Linear(config.width, config.head_width)
        self.level = nn.Embedding(config.levels + 1, config.head_width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(config.head_width),
                nn.Linear(config.head_width, config.head_width),
                nn.SiLU(),
                nn.Linear(config.head_width, config.head_width),
            )
            for _ in range(config.head_layers)
        )

    def forward(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        context = self.condition(condition) + self.level(level)
        hidden = self.enter(noisy)
        for layer in self.layers:
            hidden = hidden + layer(hidden + context)
        return self.leave(hidden)


def _cosine(levels: int) -> Tensor:
    """Return the share of signal variance at each level from 0 to T."""
    t = torch.arange(levels + 1, dtype=torch.double) / levels
    raw = (((t + _OFFSET) / (1 + _OFFSET)) * math.pi / 2).cos().square()
    steps = (raw[1:] / raw[:-1]).clamp_min(1 - _MOST_NOISE)
    return torch.cat((torch.ones(1, dtype=torch.double), steps.cumprod(0))).float()
