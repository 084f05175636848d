"""The noise is the best of its power, has the shape that it says, and hides the class."""

import pytest
import torch

from defenses.vertical.marvell import Marvell, MarvellConfig, best_shape
from fedsim.core.errors import NotApplicable


@pytest.mark.paper_step("marvell", "variances that minimise the bound")
@pytest.mark.parametrize(
    ("share", "power", "along", "divergence", "bound"),
    [
        (0.5, 1.0, (1.0, 1.0), 1.0, 0.875),
        (0.1, 1.0, (1.274, 0.970), 0.946, 0.868),
        (0.1, 4.0, (4.333, 3.963), 0.246, 0.717),
    ],
)
def test_one_coordinate_has_the_known_optimum(
    share: float, power: float, along: tuple[float, float], divergence: float, bound: float
) -> None:
    shape = best_shape(share, 1.0, power, (0.0, 0.0), 1)
    assert shape.along == pytest.approx(along, abs=1e-3)  # the digits that are known of it
    assert shape.divergence == pytest.approx(divergence, abs=1e-3)
    assert shape.bound == pytest.approx(bound, abs=1e-3)


def test_noise_lies_along_the_difference_where_classes_have_no_variance() -> None:
    shape = best_shape(0.3, 1.0, 1.0, (0.0, 0.0), 8)
    assert sum(shape.across) < 0.01 * sum(shape.along)  # noise across hides nothing
    assert 0.3 * shape.along[0] + 0.7 * shape.along[1] + 7 * (0.3 * shape.across[0] + 0.7 * shape.across[1]) == (
        pytest.approx(1.0, abs=1e-4)  # the power, to what the solver allows
    )


@pytest.mark.paper_step("marvell", "noise along and across the difference of the classes")
def test_the_class_is_hidden_along_the_difference_and_the_power_is_spent() -> None:
    labels = (torch.arange(4000) % 4 == 0).long()
    gradients = torch.zeros(4000, 3).double()
    gradients[labels == 1, 0], gradients[labels == 0, 0] = 1.5, -0.5
    covered = Marvell(MarvellConfig(power=4.0)).perturb_gradients(gradients, labels, torch.Generator().manual_seed(0))
    spent = (covered - gradients).square().sum(1).mean()
    assert float(spent) == pytest.approx(16.0, rel=0.1)  # 4 |D|^2, D = 2; a mean of 4000 squares of a Gaussian
    one, other = (covered[labels == label, 0] for label in (1, 0))
    above = (one[:, None] > other[None]).double().mean()
    bound = best_shape(0.25, 4.0, 16.0, (0.0, 0.0), 3).bound
    assert 0.5 < float(above) < bound + 0.02  # 0.02: two deviations of an area under 1,000 and 3,000 examples


def test_a_batch_of_one_class_stays_and_three_classes_are_refused() -> None:
    gradients, marvell = torch.ones(4, 3).double(), Marvell(MarvellConfig())
    assert marvell.perturb_gradients(gradients, torch.ones(4, dtype=torch.long), torch.Generator()) is gradients
    with pytest.raises(NotApplicable, match="two classes"):
        marvell.perturb_gradients(gradients, torch.arange(4), torch.Generator())
