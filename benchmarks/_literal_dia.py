"""The yardstick: the Dropout Inversion Attack (arXiv 2208.06163) written down as its paper states it, with torch alone.

Every iteration builds the gradient of one victim for all weights, differentiates the objective a second time with
`backward`, which fills the gradients of the weights as well, asks for the objective's value, and steps
`torch.optim.Adam` on image and masks. Settings are those of the paper's experiments.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.core.nets.masks import draw_masks, inject_masks
from fedsim.core.types import DropoutSite, InputSpec, Observation, OnStep, Step

_LEARNING_RATE = 0.1
_TOTAL_VARIATION = 1e-5
_MASK_WEIGHT = 1e-4
_PLATEAU = 800
_THRESHOLD = 1e-5
_STALL = 4000


def literal_dia(observation: Observation, iterations: int, generator: torch.Generator, on_step: OnStep) -> Tensor:
    """Return the guess (B, *shape) of the lowest objective.

    Args:
        observation: one gradient, with labels and dropout rates.
        iterations: most iterations.
        generator: for the first image and masks.
        on_step: called once an iteration.
    """
    assert observation.labels is not None
    model, sites = copy.deepcopy(observation.model), observation.sites
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    weights, observed = list(trained.values()), [observation.update.tensors[name] for name in trained]
    like = weights[0]
    shape = (observation.batch_size or 1, *observation.spec.shape)
    image = torch.randn(shape, generator=generator).to(like).requires_grad_()
    masks = [mask.to(like).requires_grad_() for mask in draw_masks(sites, generator, torch.empty(0))]
    lowest, highest = _pixel_range(observation.spec, image)
    optimizer = torch.optim.Adam([image, *masks], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=_PLATEAU)
    best, least, best_iteration = image.detach().clone(), math.inf, 0
    for iteration in range(1, iterations + 1):
        optimizer.zero_grad()
        model.zero_grad()
        with inject_masks(sites, tuple(masks)):
            loss = observation.loss(model(image), observation.labels)
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        objective = _cosine_distance(gradient, observed)
        objective = objective + _TOTAL_VARIATION * _total_variation(image) + _MASK_WEIGHT * _mask_prior(sites, masks)
        objective.backward()
        assert image.grad is not None
        image.grad.sign_()
        value = objective.item()
        on_step(Step(0, iteration, iterations, value, min(least, value), image.detach()))
        if value < least:
            best, least, best_iteration = image.detach().clone(), value, iteration
        if value < _THRESHOLD or iteration - best_iteration >= _STALL:
            break
        optimizer.step()
        schedule.step(value)
        with torch.no_grad():
            image.copy_(torch.maximum(torch.minimum(image, highest), lowest))
            for mask in masks:
                mask.clamp_(0.0, 1.0)
    return best


def _cosine_distance(gradient: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Return 1 - cosine of the whole gradients."""
    product, ours, theirs = (torch.zeros(()).to(gradient[0]) for _ in range(3))
    for slope, target in zip(gradient, observed, strict=True):
        product = product + (slope * target).sum()
        ours = ours + slope.pow(2).sum()
        theirs = theirs + target.pow(2).sum()
    return 1.0 - product / (ours.sqrt() * theirs.sqrt() + 1e-8)


def _total_variation(image: Tensor) -> Tensor:
    across = (image[..., :, 1:] - image[..., :, :-1]).abs().mean()
    return across + (image[..., 1:, :] - image[..., :-1, :]).abs().mean()


def _mask_prior(sites: Sequence[DropoutSite], masks: Sequence[Tensor]) -> Tensor:
    terms = [((1.0 - mask.mean()) - site.rate).abs() for site, mask in zip(sites, masks, strict=True)]
    return torch.stack(terms).sum()


def _pixel_range(spec: InputSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normalised values of black and white, a channel each."""
    mean, std = (torch.tensor(values).to(like).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return (0.0 - mean) / std, (1.0 - mean) / std
