"""The box and the weight of a mixture follow their laws."""

import pytest
import torch

from fedsim.components.augment._mixing import boxes_of
from tests.components.augment.boxes import SHAPES, areas, cutmix, random


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_before_clipping_the_box_has_the_area_that_was_drawn(height: int, width: int) -> None:
    """Sides are rounded down to even numbers, so each loses less than two pixels; the rest lost is at the border."""
    shares = torch.rand(2000, generator=random(), dtype=torch.float64)
    boxes = torch.tensor(boxes_of(shares, height, width, random(1)))
    top, bottom, left, right = boxes.unbind(1)
    is_whole = (top > 0) & (bottom < height) & (left > 0) & (right < width)
    assert int(is_whole.sum()) > 200
    visible = 1.0 - areas(boxes).double() / (height * width)
    assert float((visible - shares)[is_whole].abs().max()) <= 2 / height + 2 / width
    assert bool((visible >= shares - 1e-12).all())


def test_clipping_raises_the_mean_weight_to_that_of_the_continuous_limit() -> None:
    """E[l] = 1 - integral of u (1 - sqrt(u) / 4)^2 over (0, 1) = 0.679."""
    generator = random()
    shares = torch.rand(20_000, generator=generator, dtype=torch.float64)

    def mean(side: int) -> float:
        return 1.0 - float(areas(torch.tensor(boxes_of(shares, side, side, generator))).double().mean()) / side**2

    assert 0.66 < mean(32) < 0.73
    assert mean(4000) == pytest.approx(0.679, abs=0.006)


def test_a_beta_other_than_one_is_the_beta_distribution() -> None:
    scipy = pytest.importorskip("scipy.stats")
    component, inputs = cutmix(mode="mixup", beta=0.3, per_sample=True), torch.zeros(4000, 1, 2, 2)
    assert scipy.kstest(component.draw(inputs, random()).weights.numpy(), "beta", (0.3, 0.3)).pvalue > 0.01
