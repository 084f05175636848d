"""Costs by counting the products of a layer."""

from fedsim.core.visual import VisualShape, prompt_cost, step_cost

SHAPE = VisualShape((4, 4), 3, 1, 2, 8, width=5, hidden=7)


def test_a_prompt_costs_its_products() -> None:
    n, d, m = 3, 5, 7
    by_hand = 4 * (n * d * d) + (n * n * d) + (n * n * d) + 3 * (n * d * m)
    assert prompt_cost(SHAPE, [n]) == by_hand
    assert prompt_cost(SHAPE, [n, n]) == 2 * by_hand


def test_a_step_behind_n_tokens_costs_what_a_prompt_of_one_more_costs_more_without_looking_back() -> None:
    d = 5
    for n in (0, 4, 9):
        longer = prompt_cost(SHAPE, [n + 1]) - prompt_cost(SHAPE, [n])
        earlier = 2 * n * d  # scores and sums of the n earlier rows for the new column, which a causal mask hides
        assert step_cost(SHAPE, [n]) == longer - earlier
