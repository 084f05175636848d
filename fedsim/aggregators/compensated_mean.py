"""compensated-mean: the mean of noisy updates, without the directions that contain only noise.

Idea: The server's half of GradDefense: it removes noise that clients added, to recover accuracy.
Equation: noise of standard deviation s on a share of the entries, independent for each of m clients, leaves
    s sqrt(share / m) on every entry of the mean. The mean is reshaped to a matrix A, v x w. For noise of standard
    deviation s alone, the eigenvalues of A^T A / v are in [s^2 (1 - 1/sqrt(Q))^2, s^2 (1 + 1/sqrt(Q))^2], Q = v / w
    (Marchenko and Pastur 1967); directions in this range are removed.
Assumes: the server knows scale and share of the noise.
Fails: as a protection, since the server sees all that it recovers.
Source: Wang et al. 2022 (INFOCOM), "Protect Privacy from Gradient Leakage Attack in Federated Learning".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution

_ASPECT = 6.0  # rows over columns of the matrix of a vector


class CompensatedMeanConfig(Config):
    """Settings of the compensated mean: the noise that clients add."""

    scale: float = Field(default=1e-2, ge=0, description="standard deviation of each client's noise")
    noised_share: float = Field(
        default=0.5, gt=0, le=1, description="share of the entries that get noise from a client"
    )


@final
@aggregator(
    "compensated-mean",
    summary="mean of noisy updates, without directions of noise (GradDefense)",
    tier="research",
    paper="Wang 2022, INFOCOM",
    fidelity="reproduction",
    paper_steps=(
        ("mean of noisy updates as a matrix", "CompensatedMean.combine"),
        ("directions outside of the noise's spectrum are kept", "_remove_noise"),
    ),
)
class CompensatedMean(Aggregator[CompensatedMeanConfig]):
    """The unweighted mean without directions of noise; without noise it is the plain mean."""

    needs_single_updates: ClassVar[bool] = False

    def weight(self, examples: int) -> int:
        """Return 1: all clients have the same weight."""
        return 1

    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return the mean without directions of noise; the noise level follows from the expected number of clients."""
        total: Tensor | None = None
        count = 0
        for contribution in contributions:
            count += 1
            total = contribution.vector.clone() if total is None else total.add_(contribution.vector)
        assert total is not None, "called with at least one contribution"
        scale = self.config.scale * (self.config.noised_share / server_round.expected_clients) ** 0.5
        return compensate(total.div_(count), scale)


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
    rows = _remove_noise(vector[: height * width].view(height, width), scale, share)
    return torch.cat([rows.flatten(), vector[height * width :]])


def _remove_noise(matrix: Tensor, scale: float, share: float) -> Tensor:
    rows, (height, width) = matrix.double(), matrix.shape
    values, directions = torch.linalg.eigh(rows.mT @ rows / height)
    spread = (width / (share * height)) ** 0.5
    low, high = (share * scale**2 * (1.0 + sign * spread) ** 2 for sign in (-1.0, 1.0))
    kept = directions[:, (values < (low if spread < 1.0 else 0.0)) | (values > high)]
    return (rows @ kept @ kept.mT).to(matrix)
