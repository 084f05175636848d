"""CutMix: a random rectangle of every image is replaced by the same rectangle of another image of its batch.

x'_i = x_i outside the box, x_p(i) inside;  y'_i = l y_i + (1 - l) y_p(i),  l = 1 - (box area) / (H W).

Paper: Yun et al. 2019, arXiv 1905.04899, equations 1 and 2: l0 from Beta(b, b), sides H sqrt(1 - l0) and
W sqrt(1 - l0), a uniform centre, the box clipped at the border; l is counted from the clipped box. Cross-entropy is
linear in the target, so the paper's two weighted losses are one loss against the mixed label. What it may leak: every
pixel stays in clear. An attacker who inverts the gradient gets the composites, and from the last layer both labels and
l; with one box for the batch nothing is lost, since what is cut out of one composite is pasted into another.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.hooks import Augmentation, Here, Rules
from fedsim.registry import component
from fedsim.types import Batch, Config, PublicKnowledge

_IMAGE, _PROBABILITIES = 3, 2


class CutMixConfig(Config):
    """Settings of CutMix and of the variants that the paper compares it with."""

    mode: Literal["cutmix", "cutout", "mixup", "label-only"] = Field(
        default="cutmix",
        description="cutmix pastes a box; cutout fills it with 0, the mean colour, and keeps the label; mixup blends "
        "whole images; label-only mixes labels by the box, and no pixels",
    )
    beta: float = Field(default=1.0, ge=0, le=100, description="both parameters b of the Beta distribution; 0 is off")
    probability: float = Field(default=0.5, ge=0, le=1, description="chance that a batch is changed")
    per_sample: bool = Field(default=False, description="every image has a box and a weight of its own")


class Draw(NamedTuple):
    """What is drawn for a batch of B images; equal rows where one box serves all.

    Attributes:
        partners: p, shape (B,).
        boxes: first and last row, first and last column, the last ones excluded, shape (B, 4).
        weights: l, the share of each image's own label, shape (B,), float64.
    """

    partners: Tensor
    boxes: Tensor
    weights: Tensor


@final
@component("cutmix", hook="augment", summary="pastes a box of one image into another", paper="1905.04899")
class CutMix(Augmentation[CutMixConfig]):
    """Mixes the images of a batch in pairs, with labels in proportion to what is seen of each."""

    def augment(self, batch: Batch, here: Here) -> Batch:
        """Return the mixed batch, its labels as probabilities (B, K); under cutout they stay as they are.

        Raises:
            FedsimError: the labels are neither classes nor probabilities.
        """
        assert here.rules is not None
        draw = self.draw(batch.inputs, here.generator)
        here.draws["cutmix.weights"] = draw.weights
        if self.config.mode != "cutout":
            here.draws["cutmix.partners"] = draw.partners
        if self.config.mode in ("cutmix", "cutout"):
            here.draws["cutmix.boxes"] = draw.boxes
        if self.config.mode == "cutout":
            return Batch(self.mixed(batch.inputs, draw), batch.labels)
        return Batch(self.mixed(batch.inputs, draw), mixed_labels(batch.labels, draw, here.rules.classes, batch.inputs))

    def draw(self, inputs: Tensor, generator: torch.Generator) -> Draw:
        """Draw partners, boxes and weights for inputs (B, C, H, W)."""
        config, count = self.config, len(inputs)
        height, width = inputs.shape[-2:]
        if config.beta == 0 or torch.rand((), generator=generator).item() >= config.probability:
            return _unmixed(count)
        shares = _beta(config.beta, count if config.per_sample else 1, generator)
        partners = torch.randperm(count, generator=generator)
        if config.mode == "mixup":
            return Draw(partners, _unmixed(count).boxes, shares.expand(count))
        boxes = boxes_of(shares, height, width, generator)
        if config.mode == "cutout":
            return _unmixed(count)._replace(boxes=boxes.expand(count, 4))
        edges = boxes.numpy()
        weights = torch.from_numpy(1.0 - (edges[:, 1::2] - edges[:, ::2]).prod(1) / (height * width))
        return Draw(partners, boxes.expand(count, 4), weights.expand(count))

    def mixed(self, inputs: Tensor, draw: Draw) -> Tensor:
        """Return what the model sees of inputs (B, C, H, W), which stay as they are."""
        if self.config.mode == "label-only":
            return inputs
        if self.config.mode == "mixup":
            own = draw.weights.to(inputs).view(-1, 1, 1, 1)
            return own * inputs + (1.0 - own) * inputs[draw.partners]
        is_erased = self.config.mode == "cutout"
        if draw.boxes.stride(0) == 0:  # one box, expanded
            top, bottom, left, right = draw.boxes[0].tolist()
            box = (..., slice(top, bottom), slice(left, right))
            mixed = inputs.clone()
            mixed[box] = 0.0 if is_erased else inputs[box].index_select(0, draw.partners)
            return mixed
        filling = torch.zeros_like(inputs) if is_erased else inputs.index_select(0, draw.partners)
        # Several times as fast as torch.where, and as exact with weights 0 and 1.
        return torch.lerp(inputs, filling, _cover(draw.boxes, inputs))

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Refuse inputs without rows and columns, batches without a partner, and a second one of its kind."""
        if len(rules.shape) != _IMAGE:
            return f"it needs images (channels, height, width), but an example has shape {rules.shape}"
        smallest = min(rules.batch_size, rules.examples)
        if self.config.mode != "cutout" and smallest < 2:  # noqa: PLR2004 - a pair
            return f"it mixes pairs of images of a batch, but a batch holds {smallest}"
        if rules.batch_readers.count(type(self).__name__) > 1:
            return "the components name it twice, and mixtures of mixtures are not tracked"
        return None

    def public_view(self) -> PublicKnowledge:
        """Return the mode and what is known about the draws."""
        facts = self.config.model_dump()
        own = {"cutmix": {"pasted_examples": 2}, "mixup": {"mixed_examples": 2}}
        return PublicKnowledge("cutmix", {**facts, **own.get(self.config.mode, {})})


def boxes_of(shares: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw a box for each share l0 (N,): sides floor(H r) and floor(W r), r = sqrt(1 - l0), clipped at the border.

    Half sides are whole numbers, so an odd side loses a pixel. Returns shape (N, 4), rows and columns.
    """
    centres = [torch.randint(size, shares.shape, generator=generator).numpy() for size in (height, width)]
    roots, edges = np.sqrt(1.0 - shares.numpy()), np.empty((len(shares), 4), np.int64)  # NumPy: cheaper for so few
    for side, (size, centre) in enumerate(zip((height, width), centres, strict=True)):
        half = (size * roots).astype(np.int64) >> 1
        np.maximum(centre - half, 0, out=edges[:, 2 * side])
        np.minimum(centre + half, size, out=edges[:, 2 * side + 1])
    return torch.from_numpy(edges)


def mixed_labels(labels: Tensor, draw: Draw, classes: int, like: Tensor) -> Tensor:
    """Return l y + (1 - l) y_p as probabilities (B, K) in the precision of `like`.

    Args:
        labels: classes (B,) or probabilities (B, K).
        draw: with partners and weights.
        classes: K.
        like: any tensor of the wanted type.

    Raises:
        FedsimError: they are neither.
    """
    if labels.is_floating_point() and labels.shape != (len(labels), classes):
        expected = f"classes (B,) or probabilities (B, {classes})"
        raise FedsimError(f"cutmix cannot mix labels of shape {tuple(labels.shape)}: expected {expected}.")
    if labels.dim() == _PROBABILITIES:
        own = labels.double()
    else:
        own = torch.zeros(len(labels), classes, dtype=torch.float64).scatter_(1, labels.unsqueeze(1), 1.0)
    return torch.lerp(own.index_select(0, draw.partners), own, draw.weights.unsqueeze(1)).to(like)


def _cover(boxes: Tensor, inputs: Tensor) -> Tensor:
    """Return 1 in each box (B, 4) and 0 outside, for inputs (B, C, H, W): shape (B, 1, H, W), of their type."""
    top, bottom, left, right = boxes.numpy().T[:, :, None]
    rows, columns = np.arange(inputs.shape[-2]), np.arange(inputs.shape[-1])
    is_row, is_column = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    cover = is_row[:, None, :, None].astype(np.float32) * is_column[:, None, None, :]
    return torch.from_numpy(cover).to(inputs)


def _unmixed(count: int) -> Draw:
    return Draw(torch.arange(count), torch.zeros(count, 4, dtype=torch.long), torch.ones(count, dtype=torch.float64))


def _beta(beta: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` numbers from Beta(beta, beta), float64; with beta = 1 they are uniform."""
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    if math.isclose(beta, 1.0):
        return uniform
    from scipy.special import betaincinv  # noqa: PLC0415 - importing SciPy takes longer than many a run

    return torch.from_numpy(betaincinv(beta, beta, uniform.numpy()))
