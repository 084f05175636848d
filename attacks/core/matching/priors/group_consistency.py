"""group-consistency: restarts agree with each other.

Idea: several restarts agree where the gradient determines the image, and their mean is better than most of them.
Equation: |x - mean over restarts|^2; images of equal labels are first matched to the images of the first restart.
Fails: a single restart, where it is 0; restarts with a common error.
Source: Yin et al. 2021, arXiv 2104.07586, equation 11, with assignment in place of optical flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from attacks.core.matching.descent import Regulariser, VictimGroup
from attacks.core.matching.terms import Prior, PriorConfig
from fedsim.core.registry import prior
from fedsim.metrics.image import match


@final
@prior("group-consistency", summary="restarts agree, image by image", related="2104.07586")
class GroupConsistency(Prior[PriorConfig]):
    """Pulls the rows of a victim together."""

    def of(self, victims: VictimGroup) -> Regulariser:
        """Return the distance to the mean of each victim's rows."""
        return lambda inputs, _masks, rows: group_distance(inputs, rows, victims.labels)


def group_distance(inputs: Tensor, victims: Sequence[int], labels: Sequence[Tensor]) -> Tensor:
    """Return each row's squared distance to the mean of its victim's rows, shape (R,).

    Images of equal labels may be in different orders; they are first reordered to match the victim's first row.

    Args:
        inputs: shape (R, B, *shape).
        victims: index of the victim of each row.
        labels: labels of each victim, shape (B,).
    """
    if len(set(victims)) == len(victims):
        return inputs.new_zeros(len(inputs))
    wanted = torch.empty_like(inputs)
    for victim in set(victims):
        rows = [row for row, owner in enumerate(victims) if owner == victim]
        images = inputs[rows].detach()
        orders = [_order(row, images[0], labels[victim]) for row in images]
        mean = torch.stack([row[order] for row, order in zip(images, orders, strict=True)]).mean(0)
        for row, order in zip(rows, orders, strict=True):
            wanted[row, order] = mean
    return (inputs - wanted).square().flatten(1).sum(1)


def _order(images: Tensor, variables: Tensor, labels: Tensor) -> Tensor:
    """Return, for each of `variables` (B, ...), the index of the matched image of the same label."""
    order = torch.arange(len(labels))
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        if count > 1:
            members = (labels == label).nonzero()[:, 0]
            order[members] = members[match(images[members], variables[members])]
    return order
