"""Inference of the class of every example or pixel from output residuals."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from attacks.core.targets._residuals import Residuals
from attacks.core.targets._slopes import Slope
from attacks.core.targets._values import CLEARLY, Targets
from fedsim.core.types import NO_LABEL

_CANDIDATES = 16  # classes of an example that are tried, from the most negative residual
_ABOVE_ROUNDING = 1e-5  # least residual, relative to the largest


def read_classes(residuals: Residuals, slope: Slope, shape: tuple[int, ...]) -> Targets | None:
    """Return the class of each example or pixel: the class with a residual parallel to the observed residual.

    Directions are compared, since class weights and ignored labels change the size of all residuals. Targets are None
    if the outputs have another shape or a single class.
    """
    values = residuals.values  # class scores are in the second dimension
    if values.shape[2:] != shape or values.shape[1] < 2:  # noqa: PLR2004 - one class alone is no label
        return None
    order = values.argsort(1)[:, :_CANDIDATES]
    direction = F.normalize(values, dim=1)
    distances = torch.stack(
        [(F.normalize(slope(column), dim=1) - direction).norm(dim=1) for column in order.unbind(1)], 1
    )
    sorted_distances, sizes = distances.sort(1), values.norm(dim=1)
    labels = order.gather(1, sorted_distances.indices[:, :1])[:, 0]
    are_read = (sorted_distances.values[:, 0] <= CLEARLY * sorted_distances.values[:, 1]) & (
        sizes > _ABOVE_ROUNDING * sizes.max()
    )
    return Targets(labels.where(are_read, NO_LABEL), are_read, torch.zeros_like(are_read))
