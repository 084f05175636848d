"""A figure is clipped to its range, and gets noise of the range times the multiplier."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedsim.guard.noised_metrics import add_metric_noise
from fedsim.guard.policy import MetricTable
from fedsim.privacy.discrete_noise import add_discrete

LOSS = MetricTable(low=1.0, high=5.0, noise_multiplier=2.0)


def add_two_deviations(tensor: Tensor, deviation: float) -> Tensor:
    return tensor + 2.0 * deviation


@pytest.mark.parametrize(
    ("figure", "clipped"),
    [(2.5, 2.5), (1.0, 1.0), (5.0, 5.0), (0.0, 1.0), (-1e308, 1.0), (7.0, 5.0), (1e308, 5.0)]
    + [(value, 3.0) for value in (math.nan, math.inf, -math.inf)],
)
def test_figures_are_clipped_and_no_numbers_are_the_middle(figure: float, clipped: float) -> None:
    assert add_metric_noise(figure, LOSS, lambda tensor, _deviation: tensor) == clipped
    assert add_metric_noise(figure, LOSS, add_two_deviations) == clipped + 2.0 * 2.0 * 4.0


def test_any_two_figures_are_at_most_the_range_apart_on_the_grid_of_the_noise() -> None:
    """Offsets that the noise gets are within half of the range, so cutting to a grid towards 0 widens nothing."""
    narrow, offsets = MetricTable(low=0.3, high=0.7, noise_multiplier=1.0), list[float]()

    def keep(tensor: Tensor, _deviation: float) -> Tensor:
        offsets.append(float(tensor))
        return tensor

    for figure in (-math.inf, math.nan, 0.0, 0.3, 0.31, 0.5, 0.7, 1.0, 1e300, -1e300):
        add_metric_noise(figure, narrow, keep)
    assert max(offsets) - min(offsets) <= narrow.width
    assert max(map(abs, offsets)) <= narrow.width / 2


def test_noise_of_a_site_has_the_deviation_of_the_range() -> None:
    figures = torch.tensor([add_metric_noise(4.0, LOSS, add_discrete) for _ in range(400)])
    assert float(figures.mean()) == pytest.approx(4.0, abs=5 * 8.0 / 20)
    assert float(figures.std()) == pytest.approx(8.0, rel=5 / 800**0.5)
