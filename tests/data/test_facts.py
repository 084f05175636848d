"""Statistics that are written down, against those of the images where these are at hand."""

import pytest
import torch

from fedsim.data import _facts
from fedsim.data._facts import ImageFacts
from fedsim.data.digits import DigitsConfig, digits
from tests.data.installed import need

EVERY = {name: own for name, own in vars(_facts).items() if isinstance(own, ImageFacts)}


@pytest.mark.parametrize("name", EVERY)
def test_every_channel_has_a_mean_and_a_deviation_in_the_unit_interval(name: str) -> None:
    facts = EVERY[name]
    assert len(facts.mean) == len(facts.std)
    assert all(0.0 < value < 1.0 for value in (*facts.mean, *facts.std))
    assert len(set(facts.class_names)) == len(facts.class_names) >= 10


def test_the_digits_have_the_statistics_that_stand_there() -> None:
    need("sklearn")
    dataset = digits(DigitsConfig())
    pixels = torch.cat([dataset.train.inputs, dataset.test.inputs]) * dataset.spec.std[0] + dataset.spec.mean[0]
    assert float(pixels.mean()) == pytest.approx(_facts.DIGITS.mean[0], abs=1e-5)  # five digits stand there
    assert float(pixels.std()) == pytest.approx(_facts.DIGITS.std[0], abs=1e-5)
