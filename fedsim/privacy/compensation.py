"""Removal of noise from a vector by its spectrum (Marchenko-Pastur law).

The vector is reshaped to a matrix A, v x w. For independent noise of standard deviation s alone, the eigenvalues of A^T
A / v are in [s^2 (1 - 1/sqrt(Q))^2, s^2 (1 + 1/sqrt(Q))^2], Q = v / w (Marchenko and Pastur 1967). Directions outside
this range are kept. This is the compensation of GradDefense (Wang et al. 2022, INFOCOM), which a server uses to train
on noisy updates.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ASPECT = 6.0


def compensate(vector: Tensor, scale: float, share: float = 1.0) -> Tensor:
    """Return the vector without noise directions; entries after the last full row stay unchanged.

    Args:
        vector: shape (P,); it is split into rows of about sqrt(P / 6) entries.
        scale: standard deviation s of the noise.
        share: share of the rows with noise.
    """
    width = max(1, int((len(vector) / _ASPECT) ** 0.5))
    height = len(vector) // width
    if not scale or not share or not height:
        return vector
    rows = _without_noise(vector[: height * width].view(height, width), scale, share)
    return torch.cat([rows.flatten(), vector[height * width :]])


def _without_noise(matrix: Tensor, scale: float, share: float) -> Tensor:
    rows, (height, width) = matrix.double(), matrix.shape
    values, directions = torch.linalg.eigh(rows.mT @ rows / height)
    spread = (width / (share * height)) ** 0.5
    low, high = (share * scale**2 * (1.0 + sign * spread) ** 2 for sign in (-1.0, 1.0))
    kept = directions[:, (values < (low if spread < 1.0 else 0.0)) | (values > high)]
    return (rows @ kept @ kept.mT).to(matrix)
