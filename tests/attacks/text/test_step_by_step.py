"""Several large steps are read one after the other."""

from dataclasses import replace

import pytest

from tests.attacks.text.spans import FOUR, attacked, inputs_of, read, stepped


@pytest.mark.parametrize("rate", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_large_steps_are_read_one_after_the_other(rate: float) -> None:
    observation = stepped(rate, FOUR)
    assert read(attacked(observation)) == inputs_of(FOUR)
    without_sizes = attacked(replace(observation, batch_sizes=None, batch_size=None, examples=None))
    assert len(without_sizes.inputs) < len(FOUR)
