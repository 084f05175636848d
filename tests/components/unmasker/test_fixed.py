"""A fixed schedule: its steps, the order by confidence, and the law of what is drawn."""

from math import ceil

import pytest
import torch

from fedsim.components.unmasker._blocks import schedule
from fedsim.core.errors import FedsimError
from tests.components.unmasking import Fixed, run, tiny_llada

PROMPTS = [[1, 2, 3], [4, 5, 6]]


@pytest.mark.paper_step("fixed", "places a step")
@pytest.mark.parametrize(("places", "block", "steps"), [(8, 8, 3), (8, 4, 4), (8, 2, 8), (6, 6, 4), (6, 3, 2)])
def test_the_schedule_adds_up_and_the_rest_comes_first(places: int, block: int, steps: int) -> None:
    for own in run("fixed", tiny_llada(), PROMPTS, places, block=block, steps=steps):
        each = schedule(block, steps * block // places)
        assert own.trace.tokens == each * (places // block)
        assert sum(own.trace.tokens) == places
        assert list(each) == sorted(each, reverse=True)
        assert len(each) == min(block, steps * block // places)


def test_one_place_a_step_takes_as_many_passes_as_places_and_writes_each_once() -> None:
    for own in run("fixed", tiny_llada(), PROMPTS, 8):
        assert own.trace.tokens == (1,) * 8
        assert sorted(place for step in own.trace.places for place in step) == list(range(8))
        assert own.ending == "length"
        assert all(token < 9 for token in own.tokens), "no mask token is left"
        assert own.trace.series() == {"masked": tuple(range(8, 0, -1)), "positions": (11,) * 8, "unmasked": (1,) * 8}


@pytest.mark.paper_step("fixed", "blocks from left to right")
def test_places_of_later_blocks_wait() -> None:
    for own in run("fixed", tiny_llada(), PROMPTS, 8, block=4, steps=4):
        assert [sorted(place // 4 for place in step) for step in own.trace.places] == [[0, 0], [0, 0], [1, 1], [1, 1]]


def test_the_surest_places_come_first_and_equal_ones_in_their_order() -> None:
    odds = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9]]).log()
    (own,) = run("fixed", Fixed(odds), [[]], 5)
    assert own.trace.places == ((1,), (4,), (2,), (0,), (3,))
    assert own.tokens == (0, 0, 1, 0, 1)  # of equal scores the token numbered first
    for confidence in ("max", "margin", "entropy"):
        (other,) = run("fixed", Fixed(odds), [[]], 5, confidence=confidence)
        assert other.trace.places == own.trace.places  # of two tokens all of them agree


def chi_square(counts: torch.Tensor, law: torch.Tensor) -> float:
    expected = law * counts.sum()
    return float(((counts - expected).square() / expected).sum())


def test_a_draw_at_temperature_one_has_the_law_of_the_softmax() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.9]])
    drawn = run("fixed", Fixed(scores), [[]] * 1500, 1, temperature=1)
    counts = torch.tensor([own.tokens[0] for own in drawn]).bincount(minlength=4)
    assert chi_square(counts, scores[0].double().softmax(-1)) < 16.3  # 0.999 of chi square with 3 degrees


@pytest.mark.parametrize("confidence", ["drawn", "max", "random"])
def test_only_an_order_that_does_not_look_at_the_draw_has_the_product_law(confidence: str) -> None:
    law = torch.tensor([0.7, 0.3])
    drawn = run("fixed", Fixed(law.log().expand(2, 2)), [[]] * 1200, 2, temperature=1, confidence=confidence)
    counts = torch.tensor([2 * own.tokens[0] + own.tokens[1] for own in drawn]).bincount(minlength=4)
    statistic = chi_square(counts, (law[:, None] * law).flatten())
    if confidence != "drawn":
        assert statistic < 16.3
        return
    assert statistic > 40  # the first kept token is the likely one with probability 0.91
    first = torch.tensor([own.tokens[own.trace.places[0][0]] for own in drawn])
    share = float((first == 0).double().mean())
    assert abs(share - 0.91) < 4 * (0.91 * 0.09 / 1200) ** 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 3}, "block is 3, and an answer has 8 positions: expected a divisor"),
        ({"block": 4, "steps": 3}, "steps is 3, and the answer has 2 blocks: expected a multiple"),
    ],
)
def test_blocks_and_steps_that_do_not_divide_are_refused_before_any_step(settings: dict, message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        run("fixed", tiny_llada(), PROMPTS, 8, **settings)


def test_more_steps_than_places_are_as_many_as_places() -> None:
    assert schedule(3, 5) == (1, 1, 1)
    assert schedule(5, 3) == (2, 2, 1)
    assert all(
        sum(schedule(m, s)) == m and max(schedule(m, s)) == ceil(m / s) for m in range(1, 9) for s in range(1, 9)
    )
