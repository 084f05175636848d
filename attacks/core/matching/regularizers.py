"""Image priors for rows of images (R, B, C, H, W); each prior returns one figure per row."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attacks.core.layers import run
from fedsim.core.layer_calls import layer_inputs
from fedsim.core.masks import inject_masks, without_dropout
from fedsim.core.types import DropoutSite, Masks, Observation
from fedsim.metrics.image import match

_Norm = nn.modules.batchnorm._BatchNorm


def total_variation(inputs: Tensor) -> Tensor:
    """Return the anisotropic total variation, shape (R,): mean absolute differences, both directions added.

    0 for inputs that are not images.
    """
    if inputs.ndim < 5:  # noqa: PLR2004 - (R, B, C, H, W)
        return inputs.new_zeros(len(inputs))
    across = (inputs[..., :, 1:] - inputs[..., :, :-1]).abs().flatten(1).mean(1)
    down = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs().flatten(1).mean(1)
    return across + down


def running_statistics(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (mean, variance) of every batch normalisation that keeps them, by name."""
    return {
        name: (module.running_mean, module.running_var)
        for name, module in model.named_modules()
        if isinstance(module, _Norm) and module.running_mean is not None and module.running_var is not None
    }


class StatisticsDistance:
    """Distance between the statistics of a row's activations and the running ones (arXiv 2104.07586, equation 7)."""

    def __init__(self, observation: Observation, sites: Sequence[DropoutSite]) -> None:
        """Copy the model; the copy runs in training mode, as the client's does."""
        self._model = copy.deepcopy(observation.model).train().requires_grad_(False)
        self._wanted = {n: (m.clone(), v.clone()) for n, (m, v) in running_statistics(self._model).items()}
        self._sites = sites

    def __call__(self, inputs: Tensor, masks: Masks) -> Tensor:
        """Return sum over layers of |mean - running mean| + |variance - running variance|, shape (R,).

        Args:
            inputs: shape (R, B, *shape).
            masks: one per site, shape (R, *site.shape), or none for forward passes without dropout.
        """
        return torch.stack([self._of_row(x, tuple(mask[row] for mask in masks)) for row, x in enumerate(inputs)])

    def _of_row(self, inputs: Tensor, masks: Masks) -> Tensor:
        dropping = inject_masks(self._sites, masks) if masks else without_dropout()
        with layer_inputs(self._model, self._wanted) as calls, dropping:
            run(self._model, inputs)
        distances: list[Tensor] = []
        for name, seen in calls:
            others = [dimension for dimension in range(seen.ndim) if dimension != 1]
            mean, variance = self._wanted[name]
            distances.append((seen.mean(others) - mean).norm())
            distances.append((seen.var(others, correction=0) - variance).norm())
        return torch.stack(distances).sum()


def group_distance(inputs: Tensor, victims: Sequence[int], labels: Sequence[Tensor]) -> Tensor:
    """Return each row's squared distance to the mean of its victim's rows, shape (R,) (arXiv 2104.07586, equation 11).

    Images of one label may be in different orders; they are first put into the order of the victim's first row.

    Args:
        inputs: shape (R, B, *shape).
        victims: index of the victim of each row.
        labels: labels of each victim, shape (B,).
    """
    wanted = torch.empty_like(inputs)
    for victim in set(victims):
        rows = [row for row, owner in enumerate(victims) if owner == victim]
        images = inputs[rows].detach()
        orders = [_order(row, images[0], labels[victim]) for row in images]
        mean = torch.stack([row[order] for row, order in zip(images, orders, strict=True)]).mean(0)
        for row, order in zip(rows, orders, strict=True):
            wanted[row, order] = mean
    return (inputs - wanted).square().flatten(1).sum(1)


def _order(images: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    """For each of `others` (B, ...), the index of the image of the same label that is assigned to it."""
    order = torch.arange(len(labels))
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        if count > 1:
            members = (labels == label).nonzero()[:, 0]
            order[members] = members[match(images[members], others[members])]
    return order
