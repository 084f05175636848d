"""How a vision transformer cuts an image: its patch projection and the learned position embedding added behind it.

Both are recognised by what they do. A patch projection sees every pixel, patch by patch. A parameter P is the
position embedding when, for an example of our own, dL/dW = (dL/dP)^T (patches) holds exactly.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks._layers import PixelLayer, layers_on_pixels
from fedsim.masks import without_dropout
from fedsim.types import Observation

_EXACT = 1e-8


@dataclass(frozen=True)
class Patches:
    """A patch projection.

    Attributes:
        name: its module.
        width: features of a token.
        pixels: index into the flattened example of every entry of every patch, shape (N, entries), in the order of
            the projection's flattened weight.
    """

    name: str
    width: int
    pixels: Tensor

    def cut(self, example: Tensor) -> Tensor:
        """Return the patches (N, entries) of one example (1, *shape)."""
        return example.flatten()[self.pixels]

    def joined(self, patches: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the example (1, *shape): the mean of all entries that stand for a pixel, 0 where none does."""
        total = torch.zeros(shape, dtype=patches.dtype).flatten()
        count = total.scatter_add(0, self.pixels.flatten(), torch.ones_like(patches).flatten())
        total = total.scatter_add(0, self.pixels.flatten(), patches.flatten())
        return (total / count.clamp_min(1.0)).view(1, *shape)


@dataclass(frozen=True)
class Positions:
    """A learned position embedding.

    Attributes:
        name: its parameter.
        first: row of the first patch; the other rows belong to class tokens and the like.
        is_trained: whether its gradient is part of an update.
    """

    name: str
    first: int
    is_trained: bool


def patch_projection(observation: Observation) -> Patches | None:
    """Return the layer that turns patches without overlap into tokens, or None."""
    found = (
        _as_patches(layer) for layer in layers_on_pixels(observation.model, observation.spec.shape, observation.sites)
    )
    return next((patches for patches in found if patches is not None), None)


def position_embedding(observation: Observation, patches: Patches) -> Positions | None:
    """Return the parameter that is added to the projected patches, or None.

    Tried on a copy whose weights are moved a little: a head that starts at zero passes no gradient on.
    """
    generator = torch.Generator().manual_seed(0)
    model = copy.deepcopy(observation.model).double().train().requires_grad_()
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    example = torch.randn((1, *observation.spec.shape), generator=generator, dtype=torch.float64)
    names, parameters = zip(*model.named_parameters(), strict=True)
    with without_dropout():
        loss = observation.loss(model(example), torch.zeros(1, dtype=torch.long))
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    gradient = dict(zip(names, gradients, strict=True))
    observed = gradient[f"{patches.name}.weight"].flatten(1)
    entries = patches.cut(example)
    for name in names:
        for first in _places(gradient[name], patches):
            predicted = rows_of(gradient[name], patches, first).T @ entries
            if (predicted - observed).norm() < _EXACT * observed.norm():
                return Positions(name, first, observation.model.get_parameter(name).requires_grad)
    return None


def rows_of(tensor: Tensor, patches: Patches, first: int) -> Tensor:
    """Return the rows (N, width) of a position embedding, or of its gradient, that belong to patches."""
    return tensor.reshape(-1, patches.width)[first : first + len(patches.pixels)]


def _places(tensor: Tensor, patches: Patches) -> range:
    """Possible rows of the first patch in a tensor of tokens: none when it has another shape."""
    if tensor.ndim < 2 or tensor.shape[-1] != patches.width:  # noqa: PLR2004 - rows and columns
        return range(0)
    return range(max(0, tensor.numel() // patches.width - len(patches.pixels) + 1))


def _as_patches(layer: PixelLayer) -> Patches | None:
    module, pixels = layer.module, layer.pixels
    if isinstance(module, nn.Linear):
        is_unfolded = pixels.ndim == 3 and pixels.shape[1] > 1  # noqa: PLR2004 - (1, N, entries)
        return Patches(layer.name, module.out_features, pixels[0]) if is_unfolded else None
    assert isinstance(module, nn.Conv2d)
    is_cut = module.kernel_size == module.stride and module.padding in ((0, 0), "valid")
    if not is_cut or module.dilation != (1, 1) or module.groups != 1:
        return None
    cut = F.unfold(pixels.double(), module.kernel_size, stride=module.stride)[0].T.long()
    return Patches(layer.name, module.out_channels, cut)
