"""deep-image-prior: search the weights of an untrained convolutional network whose output is the images.

Idea: such a network produces smooth, self-similar images long before it produces noise, so it is a prior that needs no
    public images. Its input is fixed random noise.
Equation: min over w of 1 - cos(g(x), g*) + l_tv TV(x), with x = G(w, z), z ~ N(0, 1) fixed.
Assumes: honest-but-curious server, a single gradient of images; labels granted or inferred.
Recovers: images, labels, and dropout masks of known rates; unknown rates are ignored.
Fails: fine texture, which the network fits late; long searches, in which the network fits the gradient's noise too.
Source: Ulyanov, Vedaldi, Lempitsky 2018, arXiv 1711.10925 (the prior); Zhang et al. 2023, ICCV (attacks, abstract).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from attacks.core.matching.attack import MaskSearchAttack, MaskSearchConfig
from attacks.core.matching.descent import RestartResult, ScheduleName, VictimGroup
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.substitution import Substitution
from attacks.core.matching.unknown_masks import FirstMasks
from fedsim.core import seeding
from fedsim.core.registry import attack
from fedsim.core.types import Observation, change_default

_IMAGE = 3  # dimensions of an example
_KERNEL = 3


class DeepImagePriorConfig(MaskSearchConfig):
    """Settings of the search. `learning_rate` is that of the weights; `start` and `pattern` have no effect."""

    width: int = Field(default=32, ge=1, description="channels of the network, and of its input")
    learning_rate: float = Field(default=0.01, gt=0, description="Adam's step for the weights and for masks")
    sign: Sign = Field(
        default="off",
        description="hard: only the sign of the weights' gradient; soft: tanh(g / its RMS); off: as it is",
    )
    schedule: ScheduleName = change_default(MaskSearchConfig, schedule="cosine")


@final
@attack(
    "deep-image-prior",
    summary="gradient matching by the weights of an untrained network",
    tier="research",
    related="1711.10925",
)
class DeepImagePrior(MaskSearchAttack[DeepImagePriorConfig]):
    """Optimises the weights of a network that generates the images, one network per row."""

    first_masks: ClassVar[FirstMasks] = "mean"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse examples that are not images."""
        if len(observation.spec.shape) != _IMAGE:
            return "the examples are not images, which the network makes"
        return super().not_applicable(observation)

    def run_search(self, victims: VictimGroup) -> tuple[list[RestartResult], str]:
        """Search weights instead of images, and return the images of each row's best weights."""
        first = victims.observations[0]
        shape, width = (self.dummies(first), *first.spec.shape), self.config.width
        with torch.device("meta"):  # shapes alone
            network = network_of(width, shape)
        noise = [torch.randn(shape[0], width, *_coarse(shape), generator=generator) for generator in victims.generators]
        painter = Painter(network, torch.stack(noise), self.box(first))
        weights = Substitution(painter.paint, lambda _victim, generator: first_weights(width, shape, generator))
        pixels = self.descent(victims, self.plan(victims))
        return weights.substitute_inputs(self.run_descent(weights.apply(pixels))), pixels.comparison.name


@dataclass(frozen=True)
class Painter:
    """Generates images from weights.

    Attributes:
        network: architecture; its own weights are not used.
        noise: input of each victim's network, shape (V, B, width, h, w).
        box: lower and upper bound of the images, or None.
    """

    network: nn.Module
    noise: Tensor
    box: tuple[Tensor, Tensor] | None

    def paint(self, weights: Tensor, victims: Sequence[int]) -> Tensor:
        """Return the images (R, B, *shape) of weights (R, P)."""
        pairs = zip(weights, self.noise[list(victims)].to(weights), strict=True)
        images = torch.stack([self._paint_row(*pair) for pair in pairs])
        if self.box is None:
            return images
        least, greatest = (bound.to(images) for bound in self.box)
        return least + (greatest - least) * images.sigmoid()

    def _paint_row(self, weights: Tensor, noise: Tensor) -> Tensor:
        named = dict(self.network.named_parameters())
        parts = weights.split([parameter.numel() for parameter in named.values()])
        given = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
        return functional_call(self.network, given, (noise,))


def network_of(width: int, shape: Sequence[int]) -> nn.Sequential:
    """Return the network that generates B images (B, C, H, W) from noise of a quarter of their height and width."""
    _, channels, height, columns = shape
    sizes = _coarse(shape), (-(-height // 2), -(-columns // 2)), (height, columns)
    layers = list[nn.Module]()
    for size in sizes:
        layers += [nn.Upsample(size=size, mode="bilinear"), nn.Conv2d(width, width, _KERNEL, padding="same")]
        layers += [nn.GroupNorm(1, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 1))


def first_weights(width: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return randomly initialised weights of the network, shape (P,), in torch's default initialisation."""
    with seeding.isolate_randomness(int(torch.randint(1 << 62, (), generator=generator))):
        return parameters_to_vector(network_of(width, shape).parameters()).detach()


def _coarse(shape: Sequence[int]) -> tuple[int, int]:
    height, columns = shape[-2:]
    return -(-height // 4), -(-columns // 4)
