"""cvb: makes features random after a convolutional network's first block (convolutional variational bottleneck).

Idea: As `precode`, but early: nearly every gradient after the bottleneck depends on noise the server does not know.
Equation: z = m + d e, e from N(0, 1); m and d by a convolution that keeps the size, d = softplus(clip(s, -5, 5));
    the loss grows by beta KL(N(m, d^2) || N(0, 1)).
Assumes: a model with a convolution, and a server that matches gradients with noise of its own.
Protects: the input from matching without the noise. No guarantee.
Fails: against an attacker that searches for e together with the input.
Source: Scheliga, Maeder, Seeland 2023, arXiv 2309.04515. Its published code puts d where the logarithm of the variance
    belongs; that other term is not offered.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import Field
from torch import nn

from defenses.core.layers import with_module
from defenses.model._variational import VariationalBottleneck, VariationalConfig, VariationalDefense
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import defense

_LIMIT = 5.0
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus,
    nn.Hardswish,
)  # fmt: skip


class CvbConfig(VariationalConfig):
    """Settings of the convolutional bottleneck."""

    latent: int | None = Field(default=None, ge=1, description="latent maps K; half the channels when absent")
    kernel: Literal[3, 5] = Field(default=3, description="kernel size of both convolutions, in pixels")


@final
class ConvolutionalBottleneck(VariationalBottleneck):
    """Maps features (B, c, H, W) through K latent maps of the same size."""

    def __init__(self, channels: int, latent: int, kernel: int) -> None:
        """Build both layers with torch's initialisation of convolutions."""
        encode = nn.Conv2d(channels, 2 * latent, kernel, padding=kernel // 2)
        decode = nn.Conv2d(latent, channels, kernel, padding=kernel // 2)
        super().__init__(encode, decode, axis=1, limit=_LIMIT)


@final
@defense(
    "cvb",
    summary="a convolutional variational bottleneck behind the first block",
    tier="baseline",
    paper="2309.04515",
    fidelity="reproduction",
    paper_steps=(
        ("bottleneck after the first block", "Cvb.insert"),
        ("latent maps from mean and clipped deviation", "defenses.model._variational.moments"),
        ("divergence of the maps from the standard normal law", "defenses.model._variational.divergence"),
        ("loss with beta times this divergence", "defenses.model._variational.Penalty"),
        ("sampling of the maps, also in evaluation", "defenses.model._variational.VariationalBottleneck.forward"),
    ),
)
class Cvb(VariationalDefense[CvbConfig]):
    """Wraps the activation after the first convolution, or the convolution itself if no activation follows."""

    kind: ClassVar[type[VariationalBottleneck]] = ConvolutionalBottleneck

    def insert(self, model: nn.Module) -> nn.Module:
        """Return the model with the bottleneck after its first block.

        Raises:
            NotApplicable: the model has no convolution.
        """
        name, channels = _end_of_first_block(model)
        weight = next(model.parameters())
        bottleneck = ConvolutionalBottleneck(channels, self.config.latent or max(1, channels // 2), self.config.kernel)
        return with_module(model, name, nn.Sequential(model.get_submodule(name), bottleneck.to(weight)))


def _end_of_first_block(model: nn.Module) -> tuple[str, int]:
    """Return the name of the last module of the first block, and its number of channels.

    Raises:
        NotApplicable: the model has no convolution.
    """
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    first = next((i for i, (_, module) in enumerate(leaves) if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise NotApplicable("the model has no convolution, and the bottleneck follows the first convolution")
    name, convolution = leaves[first]
    assert isinstance(convolution, nn.Conv2d)
    for index, module in leaves[first + 1 :]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            break
        if isinstance(module, _ACTIVATIONS):
            name = index
            break
    return name, convolution.out_channels
