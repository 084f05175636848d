"""Remasking by chance: marginals at every time, the two schedules, and the law of what is drawn."""

import math
from typing import Any

import pytest
import torch

from fedsim.components.unmasker._revising import Guesses
from fedsim.core.hooks import GenerationContext, GenerationInputs
from fedsim.core.types import Limits
from tests.components.generating import make, sources
from tests.components.unmasking import Fixed, run

HALVES = Fixed(torch.full((10, 2), 0.5).log())


def shares(steps: int, rows: int, **settings: Any) -> tuple[list[float], float]:
    """The share of places that are written behind each step but the last, and the mean number that is masked anew."""
    method, limits = make("remdm", steps=steps, **settings), Limits(max_new_tokens=10)
    context = GenerationContext(tuple(sources(rows, 3)), limits)
    state, found, back = method.start(HALVES, GenerationInputs(((),) * rows), context), list[float](), 0
    for _ in range(steps - 1):
        state, events = method.step(HALVES, state, context)
        found.append(sum(len(one.tokens) for one in state.guesses) / (10 * rows))
        back += sum(event["remasked"] for event in events)
    return found, back / rows


@pytest.mark.paper_step("remdm", "chances of writing and of masking anew")
@pytest.mark.parametrize(
    "settings",
    [
        {"eta": 0.0},
        {"eta": 0.3},
        {"eta": 1.0},
        {"eta": 0.5, "remasking": "rescale"},
        {"eta": 1.0, "remasking": "rescale"},
    ],
)
def test_the_share_of_written_places_is_the_schedule(settings: dict[str, Any]) -> None:
    steps, rows = 5, 300
    found, back = shares(steps, rows, **settings)
    for step, share in enumerate(found, 1):
        expected = step / steps  # a place is written with this probability, on its own; four standard errors
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / (10 * rows))
    assert (back == 0) == (settings["eta"] == 0)


@pytest.mark.paper_step("remdm", "capped and rescaled chance")
def test_the_chance_is_capped_or_rescaled() -> None:
    capped, rescaled = make("remdm", eta=0.3), make("remdm", eta=0.3, remasking="rescale")
    for now, behind in ((0.0, 0.2), (0.2, 0.4), (0.6, 0.8), (0.8, 1.0)):
        most = min(1.0, (1 - behind) / now) if now else 1.0
        assert capped.chance(now, behind) == min(0.3, most)
        assert rescaled.chance(now, behind) == pytest.approx(0.3 * most)
    assert capped.chance(0.8, 1.0) == 0, "the last step writes all and masks none"


@pytest.mark.paper_step("remdm", "chance by confidence")
def test_by_confidence_unsure_places_are_masked_more_often() -> None:
    method = make("remdm", eta=1.0, by_confidence=True)
    chances = method.chances(Guesses({0: 1, 4: 0}, {0: 0.9, 4: 0.4}, 3), 0.5)
    weights = [math.exp(-0.9), math.exp(-0.4)]
    assert chances.tolist() == pytest.approx([0.5 * weight / sum(weights) for weight in weights])
    _, back = shares(5, 50, eta=1.0, by_confidence=True)
    assert back > 0


def test_draws_have_the_law_of_the_model_and_all_places_are_written() -> None:
    law = torch.tensor([0.7, 0.3])
    found = run(
        "remdm", Fixed(law.log().expand(2, 2)), [[]] * 400, 2, steps=4, eta=0.5, temperature=1, confidence="random"
    )
    counts = torch.tensor([2 * own.tokens[0] + own.tokens[1] for own in found]).bincount(minlength=4)
    expected = 400 * (law[:, None] * law).flatten()
    assert float(((counts - expected).square() / expected).sum()) < 16.3  # 0.999 of chi square with 3 degrees
    assert {own.trace.tokens for own in found} == {(0, 0, 0, 2)}
    assert sum(sum(own.trace.series()["remasked"]) for own in found) > 0
