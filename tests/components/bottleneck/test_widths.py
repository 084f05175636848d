"""Widths in front of and behind a module, in order of registration."""

import pytest
from torch import nn

from fedsim.components.bottleneck._widths import width_into, width_of

MODEL = nn.Sequential(
    nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(28, 11), nn.Tanh()), nn.Linear(11, 5)
)


@pytest.mark.parametrize(("place", "width"), [("0", 7), ("1", 7), ("2", 11), ("2.0", 7), ("2.2", 11), ("3", 5)])
def test_the_width_of_a_module_is_that_of_the_last_layer_up_to_it(place: str, width: int) -> None:
    assert width_of(MODEL, place) == width


def test_a_module_reads_what_its_first_layer_reads() -> None:
    assert [width_into(MODEL, place) for place in ("0", "1", "2", "3")] == [3, None, 28, 11]
    assert width_of(nn.Sequential(nn.ReLU()), "0") is None
