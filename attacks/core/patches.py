"""Find the patch projection of a vision transformer, and its learned position embedding.

Both are recognised by their behaviour. A patch projection reads every pixel, patch by patch. A parameter P is the
position embedding if, for a trial example, dL/dW = (dL/dP)^T (patches) holds up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.core.labels import blank_labels
from attacks.core.layers import PixelLayer, layers_on_pixels, once_a_model, run
from attacks.core.spans import share_outside
from attacks.core.tolerances import EXACT
from fedsim.core.nets.masks import disable_dropout, inject_masks
from fedsim.core.types import Observation

_PREDICTS = 1e-4  # relative; rounding of single precision stays below, for a gradient over all tokens
_SMALL = 0.02
_MOST_PLACES = 8  # tokens in front of the patches, such as a class token


@dataclass(frozen=True)
class Patches:
    """A patch projection.

    Attributes:
        name: name of its module.
        width: number of features of a token.
        pixels: index into the flattened example of every entry of every patch, shape (N, entries), in the order of the
            projection's flattened weight.
    """

    name: str
    width: int
    pixels: Tensor

    def cut(self, example: Tensor) -> Tensor:
        """Return the patches (N, entries) of one example (1, *shape)."""
        return example.flatten()[self.pixels]

    def assemble_example(self, patches: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the example (1, *shape): each pixel is the mean of its entries, 0 without an entry."""
        total = torch.zeros(shape, dtype=patches.dtype).flatten()
        count = total.scatter_add(0, self.pixels.flatten(), torch.ones_like(patches).flatten())
        total = total.scatter_add(0, self.pixels.flatten(), patches.flatten())
        return (total / count.clamp_min(1.0)).view(1, *shape)


@dataclass(frozen=True)
class Positions:
    """A learned position embedding.

    Attributes:
        name: name of its parameter.
        first: row of the first patch; the other rows belong to class tokens and similar tokens.
    """

    name: str
    first: int


def patch_projection(observation: Observation) -> Patches | None:
    """Return the layer that projects patches without overlap to tokens, or None."""
    projections = (_as_patches(layer) for layer in layers_on_pixels(observation))
    return next((patches for patches in projections if patches is not None), None)


@once_a_model
def position_embedding(observation: Observation) -> Positions | None:
    """Return the parameter that is added to the projected patches, or None.

    If a parameter explains an exact observed gradient, no trial is needed: no other parameter can explain it.
    """
    patches = patch_projection(observation)
    return None if patches is None else _find_by_gradient(observation, patches) or _find_by_trial(observation, patches)


def _find_by_gradient(observation: Observation, patches: Patches) -> Positions | None:
    """Search dL/dW = (dL/dP)^T X in the observed gradient, with more equations than unknowns."""
    tensors = observation.update.tensors
    observed = tensors.get(f"{patches.name}.weight")
    if observed is None or len(patches.pixels) >= patches.width:
        return None
    observed = observed.double().flatten(1)
    for name, gradient in tensors.items():
        places = _places(gradient, patches)
        for first in places if len(places) <= _MOST_PLACES else ():
            if share_outside(observed.T, rows_of(gradient, patches, first).double()) < EXACT:
                return Positions(name, first)
    return None


def _find_by_trial(observation: Observation, patches: Patches) -> Positions | None:
    """Find the position embedding by the gradients of a trial example.

    Zero weights get small random values: a zero output layer would block the gradient.
    """
    generator = torch.Generator().manual_seed(0)
    model = observation.model
    weights = {name: _awake(parameter.detach(), generator) for name, parameter in model.named_parameters()}
    projection = f"{patches.name}.weight"
    names = [name for name, weight in weights.items() if _places(weight, patches)]
    tried = [weights[name].requires_grad_() for name in (projection, *names)]
    example = torch.randn((1, *observation.spec.shape), generator=generator, dtype=weights[projection].dtype)
    with torch.enable_grad(), disable_dropout():
        loss = observation.loss(run(model, example, weights), blank_labels(observation, 1))
    observed, *gradients = torch.autograd.grad(loss, tried, allow_unused=True, materialize_grads=True)
    observed, entries = observed.flatten(1), patches.cut(example)
    for name, gradient in zip(names, gradients, strict=True):
        for first in _places(gradient, patches):
            predicted = rows_of(gradient, patches, first).T @ entries
            if (predicted - observed).norm() < _PREDICTS * observed.norm():
                return Positions(name, first)
    return None


def _awake(weight: Tensor, generator: torch.Generator) -> Tensor:
    if bool(weight.any()):
        return weight
    return _SMALL * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def missing_gradient(observation: Observation, patches: Patches, positions: Positions) -> str | None:
    """Return why the gradients of projection and position embedding are unusable, or None."""
    tensors, name = observation.update.tensors, positions.name
    if not observation.model.get_parameter(name).requires_grad:
        return f"the position embedding '{name}' is frozen: its gradient is not sent"
    if name in observation.hidden_parameters:
        return f"the gradient of the position embedding '{name}' is hidden"
    if f"{patches.name}.weight" not in tensors:
        return f"the patch projection '{patches.name}' is frozen or hidden: its gradient is not sent"
    if not bool(rows_of(tensors[name], patches, positions.first).any()):
        return f"the gradient of the position embedding '{name}' is zero"
    return None


@once_a_model
def embedding_site(observation: Observation) -> int | None:
    """Return the dropout site that zeroes the gradients of tokens and position embedding, or None.

    Each site with the tokens' shape in turn drops the same features of all tokens: exactly these features must then
    have a zero gradient.
    """
    patches, positions = patch_projection(observation), position_embedding(observation)
    assert patches is not None
    assert positions is not None
    generator = torch.Generator().manual_seed(0)
    dropped = torch.arange(patches.width) % 2 == 0
    model = observation.model
    weights = {name: _awake(parameter.detach(), generator) for name, parameter in model.named_parameters()}
    wanted = weights[positions.name].requires_grad_()
    for index, site in enumerate(observation.sites):
        if site.shape[-1] != patches.width or math.prod(site.shape[1:-1]) < len(patches.pixels):
            continue
        masks = [torch.ones(site.shape) for site in observation.sites]
        masks[index][..., dropped] = 0.0
        example = torch.randn((site.shape[0], *observation.spec.shape), generator=generator).to(wanted)
        with torch.enable_grad(), inject_masks(observation.sites, tuple(mask.to(wanted) for mask in masks)):
            loss = observation.loss(run(model, example, weights), blank_labels(observation, site.shape[0]))
        [gradient] = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        rows = rows_of(gradient, patches, positions.first)
        if torch.equal((rows == 0).all(0), dropped):
            return index
    return None


def rows_of(tensor: Tensor, patches: Patches, first: int) -> Tensor:
    """Return the rows (N, width) of a position embedding, or of its gradient, that belong to patches."""
    return tensor.reshape(-1, patches.width)[first : first + len(patches.pixels)]


def _places(tensor: Tensor, patches: Patches) -> range:
    """Return the possible rows of the first patch in a tensor of tokens; none if the tensor has another shape."""
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
