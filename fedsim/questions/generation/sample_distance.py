"""Frechet distance of samples and data: the distance of Gaussians fitted to features of both.

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), with means m and covariances S

(Heusel et al. 2017, arXiv 1706.08500, equation 6). With Inception features, unlike here, it is called FID. It decreases
with the number of samples, so only distances with equal numbers are comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.registry import metric

_FEWEST = 2


@metric(
    "sample_distance",
    title="Frechet distance",
    summary="between samples of a trained model and test images, in features that the row names",
    paper="1706.08500",
    over="finding",
    better="lower",
    digits=3,
    limits=(0.0, None),
)
def sample_distance(first: Tensor, second: Tensor) -> float:
    """Return the distance of features (N, F) and (M, F).

    Raises:
        FedsimError: fewer than two samples of either kind.
    """
    if min(len(first), len(second)) < _FEWEST:
        raise FedsimError(f"a Frechet distance needs two samples of each kind, got {len(first)} and {len(second)}.")
    (m, s), (n, t) = _moments(first), _moments(second)
    factor = _factor(first)
    overlap = torch.linalg.eigvalsh(factor @ t @ factor.T).clamp_min(0).sqrt().sum()
    return float(((m - n).square().sum() + s.trace() + t.trace() - 2 * overlap).clamp_min(0))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    precise = features.double()
    return precise.mean(0), precise.T.cov()


def _factor(features: Tensor) -> Tensor:
    """Return R with R'R the covariance; with fewer samples than features it has few rows, which saves time."""
    precise = features.double()
    return torch.linalg.qr((precise - precise.mean(0)) / (len(precise) - 1) ** 0.5, mode="r").R
