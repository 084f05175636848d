"""One unsure place a round: its limit, its accounting, and a law whose rounds can be counted by hand."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.bench.table_model import TableModel
from fedsim.components.unmasker.one_unsure_place import Exploring, analyse
from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Limits
from tests.components.generating import make, prompts, sources
from tests.components.unmasking import Fixed, run, tiny_llada

PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8, 0]]
PLAIN = {"explored_positions": 0, "later_blocks": 0}


def toy(groups: int, bits: int, letters: int = 8) -> TableModel:
    """Groups of four equal letters, and bits that are 0 with probability 0.7, each place on its own."""
    answers: list[tuple[int, ...]] = []
    weights: list[float] = []
    for seeds in product(range(letters), repeat=groups):
        for drawn in product(range(2), repeat=bits):
            answers.append((*(seed for seed in seeds for _ in range(4)), *drawn))
            weights.append(math.prod(0.3 if own else 0.7 for own in drawn))
    return TableModel(answers, letters, weights)


def states(model: nn.Module, places: int, seed: int = 0, **settings: Any) -> list[Exploring]:
    """The state before each round of one text, and behind the last."""
    method = make("one-unsure-place", **settings)
    context = GenerationContext(tuple(sources(1, seed)), Limits(max_new_tokens=places))
    with torch.no_grad():
        found = [method.start(model, prompts([]), context)]
        while found[-1].masked_positions[0]:
            found.append(method.step(model, found[-1], context)[0])
    return found


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("tau", [0.3, 0.9])
def test_without_exploring_it_is_the_threshold(block: int | None, tau: float) -> None:
    plain = run("threshold", tiny_llada(std=0.7), PROMPTS, 8, block=block, threshold=tau)
    own = run("one-unsure-place", tiny_llada(std=0.7), PROMPTS, 8, block=block, threshold=tau, **PLAIN)
    assert [(one.tokens, one.trace.places) for one in own] == [(one.tokens, one.trace.places) for one in plain]


@pytest.mark.paper_step("one-unsure-place", "bounds on rounds by information")
@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 67), marks=pytest.mark.slow)])
def test_information_is_that_of_the_path_and_bounds_hold(seeds: range) -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in seeds:  # three ways each: 201 runs in all
        scores = 3 * torch.randn(6, 4, generator=generator, dtype=torch.double)
        for settings in ({}, PLAIN, {"explored_positions": 2, "apart": 2}):
            path = states(Fixed(scores), 6, seed, temperature=1, confidence="max", **settings)
            rounds = path[-1].rounds[0]
            found = analyse(rounds)
            odds = scores.log_softmax(-1)
            replayed = -sum(float(odds[place, token]) for place, token in enumerate(path[-1].tokens[0]))
            assert found.information == pytest.approx(replayed, abs=1e-9)
            assert found.rounds >= found.least - 1e-9


@pytest.mark.parametrize(("groups", "bits"), [(1, 2), (2, 2), (2, 0)])
def test_rounds_are_counted_by_hand(groups: int, bits: int) -> None:
    model, places = toy(groups, bits, 4), 4 * groups + bits
    drawn = {"temperature": 1, "confidence": "max"}
    for seed in range(3):
        threshold = states(model, places, seed, **drawn, **PLAIN)
        assert len(threshold) - 1 == bits + 2 * groups  # bits alone; each group a fallback and a round of copies
        exploring = states(model, places, seed, **drawn, near=99, least=0.0)
        assert len(exploring) - 1 <= bits + groups + 1


def chi_square(texts: list[tuple[int, ...]], model: TableModel, count: int) -> float:
    answers = [tuple(own) for own in model._answers.tolist()]
    law = model._weights / model._weights.sum()
    counts = torch.tensor([answers.index(text) for text in texts]).bincount(minlength=len(answers))
    return float(((counts - law * count).square() / (law * count)).sum())


@pytest.mark.paper_step("one-unsure-place", "all confident positions and a single uncertain position per round")
@pytest.mark.parametrize("settings", [PLAIN, {"near": 99, "least": 0.0}])
def test_one_unsure_token_a_round_keeps_the_law(settings: dict[str, Any]) -> None:
    model, count = toy(1, 1, 4), 300
    found = run("one-unsure-place", model, [[]] * count, 5, temperature=1, confidence="max", **settings)
    assert chi_square([own.tokens for own in found], model, count) < 24.3  # 0.999 of chi square with 7 degrees


def test_two_unsure_tokens_of_a_group_break_it_and_spacing_mends_it() -> None:
    drawn = {"temperature": 1, "confidence": "max", "near": 99, "least": 0.0, "explored_positions": 2}
    together = run("one-unsure-place", toy(1, 0, 4), [[]] * 200, 4, apart=0, **drawn)
    is_wrong = [len(set(own.tokens)) > 1 for own in together]
    # The first round draws two places of the group: they differ with probability 3 / 4.
    assert abs(sum(is_wrong) / 200 - 0.75) < 4 * (0.75 * 0.25 / 200) ** 0.5
    apart = run("one-unsure-place", toy(2, 0, 4), [[]] * 100, 8, apart=4, **drawn)
    assert all(len(set(own.tokens[:4])) == 1 and len(set(own.tokens[4:])) == 1 for own in apart)


def test_later_blocks_are_open_above_their_own_threshold_alone() -> None:
    odds = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.93, 0.07], [0.97, 0.03], [0.99, 0.01], [0.99, 0.01]])
    model = Fixed(odds.log())
    (own,) = run("one-unsure-place", model, [[]], 6, block=2, explored_positions=0)
    assert own.trace.places[0] == (3,)  # block 1 above 0.95; block 2 is not open, and nothing is sure in block 0
    (closed,) = run("one-unsure-place", model, [[]], 6, block=2, explored_positions=0, later_blocks=0)
    assert closed.trace.places[0] == (0,)
    (wide,) = run("one-unsure-place", model, [[]], 6, block=2, explored_positions=0, later_blocks=2)
    assert wide.trace.places[0] == (3, 4, 5)


@pytest.mark.paper_step("one-unsure-place", "lookahead over the likeliest tokens")
def test_branches_that_do_not_look_ahead_take_the_likeliest_and_keep_the_scores_of_a_pass() -> None:
    (own,) = run("one-unsure-place", tiny_llada(), PROMPTS[:1], 6, branches=3)
    series = own.trace.series()
    assert series["rows"][0] == 1 + 3
    assert all(positions == 9 * rows for positions, rows in zip(series["positions"], series["rows"], strict=True))
    assert set(series["explored"]) <= {0, 1}
    assert len(own.trace.tokens) <= 6


def test_it_explores_beside_what_is_written_and_not_where_the_model_has_no_opinion() -> None:
    odds = torch.tensor([[1, 0, 0, 0], [0.55, 0.45, 0, 0], [0.4, 0.3, 0.3, 0], [0.25, 0.25, 0.25, 0.25]])
    model = Fixed(odds.log().clamp_min(-99))
    # Entropies are 0.69, 1.09 and 1.39 nats; away from the prompt they count half.
    for near, least, first in ((1, 0.3, 0), (9, 0.3, 1), (9, 0.2, 2), (1, 0.2, 2)):
        (own,) = run("one-unsure-place", model, [[0]], 3, near=near, least=least)
        assert own.trace.places[0] == (first,)


class Doubting(nn.Module):
    """Two places and three words: the first word of place 0 makes place 1 sure, and what stands there denies it."""

    mask_token = 3

    def __init__(self, behind: tuple[float, float, float]) -> None:
        super().__init__()
        self.behind = torch.tensor(behind).log()

    def forward(self, tokens: Tensor) -> Tensor:
        scores = torch.tensor([[0.4, 0.35, 0.25], [0.5, 0.3, 0.2]]).log().repeat(len(tokens), 1, 1)
        scores[tokens[:, 0] == 0, 1] = torch.tensor([0.98, 0.01, 0.01]).log()
        scores[tokens[:, 1] == 0, 0] = self.behind
        return scores


@pytest.mark.parametrize(
    ("verify", "behind", "text", "places", "rows"),
    [
        (0.0, (0.01, 0.98, 0.01), (0, 0), ((0,), (1,)), (1, 1)),
        (0.1, (0.01, 0.98, 0.01), (1, 0), ((), (1,), (0,)), (1, 2, 1)),  # taken back, and sure of another word then
        (0.1, (0.2, 0.4, 0.4), (0, 0), ((), (0, 1)), (1, 2)),  # it stands
        (0.45, (0.2, 0.4, 0.4), (1, 0), ((), (1,), (0,)), (1, 2, 1)),  # taken back once: the next word stands
    ],
)
def test_an_explored_token_is_taken_back_once_where_what_it_made_sure_denies_it(
    verify: float,
    behind: tuple[float, float, float],
    text: tuple[int, ...],
    places: tuple[tuple[int, ...], ...],
    rows: tuple[int, ...],
) -> None:
    path = states(Doubting(behind), 2, verify=verify, least=0.4)  # at place 1 the model has an opinion behind place 0
    assert path[-1].tokens[0] == text
    (found,) = run("one-unsure-place", Doubting(behind), [[]], 2, verify=verify, least=0.4)
    assert (found.tokens, found.trace.places, found.trace.series()["rows"]) == (text, places, rows)
    logged = [place for each in path[-1].rounds[0] for place in (*each.sure, *each.explored_positions)]
    assert sorted(logged) == [0, 1]
