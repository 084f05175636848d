"""A threshold: its two ends, and the one place that is always written."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from tests.components.unmasking import Fixed, run, tiny_llada

PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8, 0]]


def test_above_one_it_is_one_place_a_step_in_the_order_of_confidence() -> None:
    steps = run("fixed", tiny_llada(), PROMPTS, 8, block=4)
    high = run("threshold", tiny_llada(), PROMPTS, 8, block=4, threshold=1.5)
    assert [(own.tokens, own.trace) for own in high] == [(step.tokens, step.trace) for step in steps]


def test_at_zero_a_block_is_one_step() -> None:
    for own in run("threshold", tiny_llada(), PROMPTS, 8, block=4, threshold=0):
        assert own.trace.places == ((0, 1, 2, 3), (4, 5, 6, 7))


@pytest.mark.paper_step("threshold", "places above a confidence, or else the surest")
def test_those_above_go_together_and_else_the_surest_goes() -> None:
    odds = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.08, 0.92], [0.7, 0.3]]).log()
    (own,) = run("threshold", Fixed(odds), [[]], 4)
    assert own.trace.places == ((0, 2), (3,), (1,))


def test_a_block_that_does_not_divide_is_refused() -> None:
    with pytest.raises(FedsimError, match="block is 5, and an answer has 8 positions"):
        run("threshold", tiny_llada(), PROMPTS, 8, block=5)
