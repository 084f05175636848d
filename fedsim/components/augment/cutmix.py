"""cutmix: replaces a random rectangle of every image by the same rectangle of another image of its batch.

Idea: The model learns from parts of images, with labels in proportion to the visible areas.
Equation: x'_i = x_i outside the box, x_p(i) inside; y'_i = l y_i + (1 - l) y_p(i), l = 1 - (box area) / (H W); l0 from
    Beta(b, b), sides H sqrt(1 - l0) and W sqrt(1 - l0), uniform centre, box clipped at the border.
Assumes: images, in batches of at least two. The loss against the mixed label equals the paper's two weighted losses.
Leaks: all pixels stay unmasked. Inversion gives the composites, and the last layer's gradient gives both labels and l.
    If the batch shares one box, the composites together contain every pixel of the batch.
Fails: as a defense. A random permutation may pair an image with itself.
Source: Yun et al. 2019, arXiv 1905.04899, equations 1 and 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.augment._mixing import (
    Chances,
    Draw,
    draw_boxes,
    draw_nothing,
    draw_shares,
    erase,
    mixed_labels,
    paste,
)
from fedsim.core.hooks import Augmentation, HookContext, PublicFederation
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, MethodDescription
from fedsim.core.types.effects import MixedExamples, PastedImages

_IMAGE = 3


class CutMixConfig(Config):
    """Settings of CutMix and of the variants that the paper compares."""

    mode: Literal["cutmix", "cutout", "mixup", "label-only"] = Field(
        default="cutmix",
        description="cutmix pastes a box; cutout fills it with 0, the mean colour, and keeps the label; mixup blends "
        "whole images; label-only mixes labels by the box, and no pixels",
    )
    beta: float = Field(
        default=1.0, ge=0, le=100, description="both parameters b of the Beta distribution; 0 turns mixing off"
    )
    probability: float = Field(default=0.5, ge=0, le=1, description="chance that a batch is changed")
    per_sample: bool = Field(default=False, description="every image has its own box and weight")


@final
@component(
    "cutmix",
    summary="pastes a box of an image into another",
    tier="core",
    paper="1905.04899",
    fidelity="reproduction",
    paper_steps=(
        ("box of a Beta share, clipped at the border", "fedsim.components.augment._mixing.boxes_of"),
        ("images pasted, labels by the share of pixels", "CutMix.mix_inputs"),
    ),
)
class CutMix(Augmentation[CutMixConfig]):
    """Mixes images of a batch in pairs, with labels in proportion to the visible areas."""

    def augment(self, batch: Batch, context: HookContext) -> Batch:
        """Return the mixed batch. Its labels are probabilities (B, K); cutout keeps the labels.

        Raises:
            FedsimError: the labels are neither classes nor probabilities.
        """
        assert context.federation is not None
        draw = self.draw(batch.inputs, context.generator)
        context.draws["cutmix.weights"] = draw.weights
        if self.config.mode != "cutout":
            context.draws["cutmix.partners"] = draw.partners
        if self.config.mode in ("cutmix", "cutout"):
            context.draws["cutmix.boxes"] = draw.boxes
        if self.config.mode == "cutout":
            return replace(batch, inputs=self.mix_inputs(batch.inputs, draw))
        labels = mixed_labels(batch.labels, draw, context.federation.classes, batch.inputs)
        return replace(batch, inputs=self.mix_inputs(batch.inputs, draw), labels=labels)

    def draw(self, inputs: Tensor, generator: torch.Generator) -> Draw:
        """Draw partners, boxes and weights for inputs (B, C, H, W)."""
        config, count = self.config, len(inputs)
        chances = Chances(config.beta, config.probability, config.per_sample)
        if config.mode == "mixup":
            return draw_shares(count, chances, generator)
        height, width = inputs.shape[-2:]
        draw = draw_boxes(count, (height, width), chances, generator)
        return draw_nothing(count)._replace(boxes=draw.boxes) if config.mode == "cutout" else draw

    def mix_inputs(self, inputs: Tensor, draw: Draw) -> Tensor:
        """Return the mixed copy of inputs (B, C, H, W)."""
        if self.config.mode == "label-only":
            return inputs
        if self.config.mode == "mixup":
            shares = draw.weights.to(inputs).view(-1, 1, 1, 1)
            return shares * inputs + (1.0 - shares) * inputs[draw.partners]
        return erase(inputs, draw.boxes) if self.config.mode == "cutout" else paste(inputs, draw)

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse inputs that are not images, batches of fewer than two images, and a second CutMix."""
        if len(federation.shape) != _IMAGE:
            return f"it needs images (channels, height, width), but an example has shape {federation.shape}"
        smallest = min(federation.batch_size, federation.examples)
        if self.config.mode != "cutout" and smallest < 2:  # noqa: PLR2004 - a pair
            return f"it mixes pairs of images of a batch, but a batch holds {smallest}"
        if federation.batch_readers.count(type(self).__name__) > 1:
            return "the components name it twice, and mixtures of mixtures are not tracked. Name it once"
        return None

    def public_description(self) -> MethodDescription:
        """Return the mode and the distribution of the draws."""
        effects = {"cutmix": (PastedImages(self.config.per_sample),), "mixup": (MixedExamples(2),)}
        return MethodDescription("cutmix", effects.get(self.config.mode, ()), self.config.model_dump())
