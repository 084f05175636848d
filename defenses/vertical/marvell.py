"""marvell: add noise with a covariance per class that makes the gradients of both classes as similar as possible.

Idea: among noise of equal power, noise along the difference of the class means hides the class best.
Equation: noise N(0, S_y), S_y = (l1_y - l2_y) D D^T / |D|^2 + l2_y I, D the difference of the class means; l1, l2
    minimise sumKL = ((d - 1)(a_0/a_1 + a_1/a_0) + (b_0 + |D|^2)/b_1 + (b_1 + |D|^2)/b_0 - 2 d) / 2 at
    p tr S_1 + (1 - p) tr S_0 = s |D|^2, where a_y = l2_y + v_y, b_y = l1_y + v_y, v_y the variance within a class.
Assumes: two classes; both in every batch, otherwise the gradients are returned unchanged.
Protects: labels: the AUC of any attack is at most 1/2 + sqrt(k)/2 - k/8, k = sumKL, if gradients were Gaussian.
Fails: several classes; class means are estimated from a batch; epochs average the noise.
Source: Li et al. 2022, arXiv 2102.08504, section 4 (Marvell); the problem is solved by SLSQP here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import minimize
from torch import Tensor

from fedsim.core.errors import NotApplicable
from fedsim.core.registry import defense
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutDefense

_CLASSES = 2
_LEAST = 1e-6  # lower bound of a variance over the squared difference: the divergence at variance zero is infinite


class MarvellConfig(Config):
    """Settings of marvell."""

    power: float = Field(default=4.0, gt=0, description="s: of the noise, over the squared difference of class means")


@dataclass(frozen=True)
class Shape:
    """Variances of the noise along the difference of the class means and across it, of class 1 and of class 0."""

    along: tuple[float, float]
    across: tuple[float, float]
    divergence: float

    @property
    def bound(self) -> float:
        """The largest AUC of an attack on Gaussian gradients."""
        return 0.5 + self.divergence**0.5 / 2 - self.divergence / 8


@final
@defense(
    "marvell",
    summary="noise that makes gradients of two classes alike",
    tier="core",
    paper="2102.08504",
    fidelity="variant",
    deviates="the four variances are found by SLSQP",
    paper_steps=(
        ("variances that minimise the bound", "best_shape"),
        ("noise along and across the difference of the classes", "Marvell.perturb_gradients"),
    ),
)
class Marvell(CutDefense[MarvellConfig]):
    """Shapes noise by the class means of a batch."""

    def perturb_gradients(self, gradients: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the gradients plus noise with the covariance of their class, shape (B, width).

        The gradients are returned unchanged if a class is missing in the batch, or if the class means are equal.

        Raises:
            NotApplicable: there are more than two classes.
        """
        if int(labels.max()) >= _CLASSES:
            raise NotApplicable("it hides which of two classes an example has, and the data have more than two")
        parts = [gradients[labels == label] for label in (1, 0)]
        if not all(map(len, parts)):
            return gradients
        gap = parts[0].mean(0) - parts[1].mean(0)
        size = float(gap.square().sum())
        if size == 0:
            return gradients
        variances = [float(part.var(0, correction=0).mean()) / size for part in parts]
        shape = best_shape(
            len(parts[0]) / len(labels), 1.0, self.config.power, (variances[0], variances[1]), gradients.shape[1]
        )
        noise = torch.randn(gradients.shape, generator=generator, dtype=gradients.dtype)
        along, across = (
            (size * torch.tensor(pair, dtype=gradients.dtype)).sqrt()[1 - labels][:, None]
            for pair in (shape.along, shape.across)
        )
        unit = gap / size**0.5
        on_line = (noise @ unit)[:, None] * unit
        return gradients + along * on_line + across * (noise - on_line)


def best_shape(share: float, gap: float, power: float, within_class: tuple[float, float], width: int) -> Shape:
    """Return the noise of given power that minimises the symmetric KL divergence of the classes' Gaussians.

    Args:
        share: share of class 1, in (0, 1).
        gap: squared difference of the class means.
        power: share tr S_1 + (1 - share) tr S_0.
        within_class: variance of a coordinate within class 1 and class 0.
        width: number of coordinates.
    """
    shares, within_array = np.array([share, 1 - share]), np.array(within_class)

    def divergence(logarithms: np.ndarray) -> float:
        along, across = np.exp(logarithms).reshape(2, 2)
        ratio = (across[0] + within_array[0]) / (across[1] + within_array[1])
        first, second = along + within_array
        objective = (width - 1) * (ratio + 1 / ratio) + (first + gap) / second + (second + gap) / first
        return float(objective - 2 * width) / 2

    def left(logarithms: np.ndarray) -> float:
        along, across = np.exp(logarithms).reshape(2, 2)
        return float(shares @ (along + (width - 1) * across)) / power - 1

    floor = np.log(_LEAST * gap)
    across = max(power / width / 10, np.exp(floor))
    start = np.log([power, power, across, across])
    solved = minimize(
        divergence,
        start,
        method="SLSQP",
        bounds=[(floor, None)] * 4,
        constraints={"type": "eq", "fun": left},
        options={"maxiter": 200, "ftol": 1e-10},
    )
    first, second, across_one, across_other = np.exp(solved.x).tolist()
    return Shape((first, second), (across_one, across_other), max(0.0, float(solved.fun)))
