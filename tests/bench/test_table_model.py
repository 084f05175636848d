"""The exact model against conditional frequencies that are counted."""

from itertools import permutations, product

import pytest
import torch

from fedsim.bench.table_model import TableModel
from tests.components.unmasking import run

ANSWERS: list[tuple[int, ...]] = [(0, 1, 2), (0, 2, 1), (1, 1, 1), (2, 1, 0)]
WEIGHTS = [1.0, 2.0, 3.0, 4.0]


def test_marginals_are_conditional_frequencies() -> None:
    model = TableModel(ANSWERS, 3, WEIGHTS)
    for partial in product(range(4), repeat=3):
        fits = [
            (own, weight)
            for own, weight in zip(ANSWERS, WEIGHTS, strict=True)
            if all(token in (3, at) for token, at in zip(partial, own, strict=True))
        ]
        odds = model(torch.tensor([[9, *partial]]))[0, 1:].exp()
        for place in range(3):
            for token in range(3):
                if fits:
                    share = sum(w for own, w in fits if own[place] == token) / sum(w for _, w in fits)
                else:
                    seen = {own[place] for own in ANSWERS}
                    share = (token in seen) / len(seen)
                assert abs(float(odds[place, token]) - share) < 1e-12


@pytest.mark.slow
def test_one_place_a_step_in_random_order_draws_the_law() -> None:
    drawn = run("fixed", TableModel(ANSWERS, 3, WEIGHTS), [[]] * 3000, 3, temperature=1, confidence="random")
    counts = torch.tensor([ANSWERS.index(own.tokens) for own in drawn]).bincount(minlength=4).double()  # none is wrong
    expected = 3000 * torch.tensor(WEIGHTS, dtype=torch.double) / 10
    assert float(((counts - expected).square() / expected).sum()) < 16.3  # 0.999 of chi square with 3 degrees


@pytest.mark.slow
def test_twelve_thousand_shuffles_of_four_letters_are_equally_often_each_order() -> None:
    orders = list(permutations(range(4)))
    drawn = run("fixed", TableModel(orders, 4), [[]] * 12_000, 4, temperature=1, confidence="random")
    counts = torch.tensor([orders.index(own.tokens) for own in drawn]).bincount(minlength=24).double()
    assert float((counts - 500).square().sum() / 500) < 49.7  # 0.999 of chi square with 23 degrees
