"""Prior from the server's own images for an image with partly known features."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.core.tolerances import LEAST

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of a kernel that is 1 on its diagonal
_NARROW = 0.5  # scale of the kernel: it is exp(-_NARROW) at the median squared distance
_FLOOR = 0.1  # relative to the mean spread of features: features of less spread are not scaled up further
_UNSHARED = 0.05  # share of independent variance per pixel: 1,000 images do not span all images


class PublicPrior:
    """The server's own images as a prior: mean, covariance, and a regression from features to pixels."""

    def __init__(self, images: Tensor) -> None:
        """Keep the images, (N, *shape), float64."""
        self._shape = images.shape[1:]
        self._mean = images.flatten(1).mean(0)
        self._centred = images.flatten(1) - self._mean
        self._variance = self._centred.square().mean()

    def spread(self, slopes: Tensor) -> Tensor:
        """Return slopes (D, n) times the images' covariance (n, n), with a share of independent pixel variance."""
        common = slopes @ self._centred.T @ self._centred / len(self._centred)
        return (1 - _UNSHARED) * common + _UNSHARED * self._variance * slopes

    def guess(self, features: Tensor, wanted: Tensor) -> Tensor:
        """Return images (G, *shape) for wanted features, by kernel ridge regression of pixels on features.

        The ridge has the smallest leave-one-out error among a few candidates.

        Args:
            features: features of the images, shape (N, D), float64.
            wanted: shape (G, D), float64.
        """
        spread = features.std(0)
        scale = spread + _FLOOR * spread.mean().clamp_min(LEAST)
        known, unknown = features / scale, wanted / scale
        distances = torch.cdist(known, known).square()
        width = distances.median().clamp_min(LEAST) / _NARROW
        values, vectors = torch.linalg.eigh((-distances / width).exp())
        rotated = vectors.T @ self._centred
        fits = [_ridge(values, vectors, rotated, ridge) for ridge in _RIDGES]
        weights, _ = min(fits, key=lambda fit: fit[1])
        kernel = (-torch.cdist(unknown, known).square() / width).exp()
        return (kernel @ weights + self._mean).view(-1, *self._shape)


def _ridge(values: Tensor, vectors: Tensor, rotated: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Return weights (N, n) of a ridge regression, and its mean squared leave-one-out error.

    Args:
        values: eigenvalues (N,) of the kernel.
        vectors: its eigenvectors (N, N).
        rotated: their products (N, n) with the targets.
        ridge: added to the kernel's diagonal.
    """
    scaled = vectors / (values.clamp_min(0) + ridge)
    weights, diagonal = scaled @ rotated, (scaled * vectors).sum(1)
    return weights, float((weights / diagonal[:, None]).square().mean())
