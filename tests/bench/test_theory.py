"""Exact figures of list operations: formulas against enumeration, and the published ones."""

import math
from itertools import permutations

import pytest

from fedsim.bench.puzzles import squares
from fedsim.bench.theory import (
    accuracy,
    analyse,
    mean_loss,
    one_step_accuracy,
    replace_accuracy,
    replace_correlation,
    shuffle_accuracy,
    shuffle_correlation,
    steps_correlation,
    total_correlation,
)
from fedsim.data._lists import sample_of

EXACT = 1e-9


def outcomes(operation: str, n: int) -> list[tuple[int, ...]]:
    return list(sample_of(operation, tuple(range(n)), 1, n).answers())


def correlation(own: list[tuple[int, ...]]) -> float:
    return total_correlation(dict.fromkeys(own, 1.0))


@pytest.mark.paper_step("list-operations", "bound by the total correlation")
@pytest.mark.parametrize("n", [3, 4, 5])
def test_formulas_equal_enumeration(n: int) -> None:
    orders = list(permutations(range(n)))
    assert correlation(orders) == pytest.approx(n * math.log(n) - math.lgamma(n + 1), abs=EXACT)
    assert one_step_accuracy(orders) == pytest.approx(math.factorial(n) / n**n, abs=EXACT)
    replaced = outcomes("replace-random", n)
    assert correlation(replaced) == pytest.approx((n - 1) * math.log(n / (n - 1)), abs=EXACT)
    assert one_step_accuracy(replaced) == pytest.approx((1 - 1 / n) ** (n - 1), abs=EXACT)
    for k in range(1, n + 1):
        assert accuracy(replaced, k) == pytest.approx(replace_accuracy(n, k), abs=EXACT)
        if n < 5:
            assert accuracy(orders, k) == pytest.approx(shuffle_accuracy(n, k), abs=EXACT)
    for own in (orders, replaced, outcomes("insert-random", n), outcomes("remove-random", n)):
        assert accuracy(own, len(own[0])) == pytest.approx(one_step_accuracy(own), abs=EXACT)
        assert accuracy(own, 1) == pytest.approx(1, abs=EXACT)


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("operation", ["copy", "reverse", "sort", "insert-index", "remove-index", "replace-index"])
def test_operations_with_one_answer_lose_nothing(operation: str, n: int) -> None:
    assert correlation(outcomes(operation, n)) == pytest.approx(0, abs=EXACT)
    assert one_step_accuracy(outcomes(operation, n)) == 1


def divergence_by_hand(own: list[tuple[int, ...]], steps: list[tuple[int, ...]]) -> float:
    """KL of the outcomes' law from the product of its conditional marginals, step by step, outcome by outcome."""
    nats = 0.0
    for outcome in own:
        drawn, alive = 1.0, own
        for places in steps:
            for place in places:
                drawn *= sum(other[place] == outcome[place] for other in alive) / len(alive)
            alive = [other for other in alive if all(other[place] == outcome[place] for place in places)]
        nats += math.log(1 / len(own) / drawn) / len(own)
    return nats


@pytest.mark.paper_step("list-operations", "bound over several steps")
@pytest.mark.parametrize("operation", ["shuffle", "replace-random", "insert-random", "remove-random"])
def test_what_steps_lose_is_the_divergence_over_all_orders(operation: str) -> None:
    own = outcomes(operation, 4)
    length = len(own[0])
    losses = [steps_correlation(own, at_once) for at_once in range(1, length + 1)]
    for at_once, nats in enumerate(losses, 1):
        orders = [
            [order[start : start + at_once] for start in range(0, length, at_once)]
            for order in permutations(range(length))
        ]
        by_hand = sum(divergence_by_hand(own, steps) for steps in orders) / len(orders)
        assert nats == pytest.approx(by_hand, abs=EXACT)
    assert losses[0] == pytest.approx(0, abs=EXACT)
    assert losses[-1] == pytest.approx(correlation(own), abs=EXACT)
    assert losses[0] <= losses[1] <= losses[-1]  # steps of 3 and 1 may lose more than two of 2


@pytest.mark.parametrize("n", [3, 4, 5])
def test_formulas_of_what_steps_lose_equal_enumeration(n: int) -> None:
    orders, replaced = list(permutations(range(n))), outcomes("replace-random", n)
    for k in range(1, n + 1):
        assert replace_correlation(n, k) == pytest.approx(steps_correlation(replaced, k), abs=EXACT)
        if n < 5:
            assert shuffle_correlation(n, k) == pytest.approx(steps_correlation(orders, k), abs=EXACT)


PUBLISHED = {  # n: one-step accuracy, and C where it is given
    "shuffle": {3: (0.2240, None), 4: (0.0919, None), 5: (0.0381, None)},  # without the list's own order
    "insert-random": {3: (0.1875, 1.818), 4: (0.1229, 2.347), 5: (0.0823, 2.867)},
    "remove-random": {3: (0.8889, 0.174), 4: (0.75, 0.432), 5: (0.6144, 0.737)},
}


@pytest.mark.parametrize(("operation", "n"), [(own, n) for own, values in PUBLISHED.items() for n in values])
def test_the_published_figures_are_found(operation: str, n: int) -> None:
    share, nats = PUBLISHED[operation][n]
    found = outcomes(operation, n)
    assert one_step_accuracy(found) == pytest.approx(share, abs=5e-5)
    if nats is not None:
        assert correlation(found) == pytest.approx(nats, abs=5e-4)


@pytest.mark.paper_step("list-operations", "accuracy of ideal models by places a step")
def test_the_table_of_eight_letters_is_the_published_one() -> None:
    table = {own.operation: own for own in analyse(8, (1, 2, 4, 8))}
    assert table["replace-random"].accuracies == pytest.approx((1.000, 0.780, 0.582, 0.393), abs=5e-4)
    assert table["shuffle"].accuracies == pytest.approx((1, 0.273, 0.038, 0.0024), abs=5e-4)
    assert all(table[own].accuracies == (1, 1, 1, 1) for own in ("copy", "reverse", "sort", "insert-index"))
    assert all(own.accuracies[0] == pytest.approx(1, abs=EXACT) for own in table.values())


@pytest.mark.parametrize(("size", "count"), [(3, 12), (4, 576)])
def test_cells_of_a_latin_square_are_even_so_that_c_follows_from_the_number_of_squares(size: int, count: int) -> None:
    nats, share = mean_loss([squares(size)])
    assert nats == pytest.approx(size**2 * math.log(size) - math.log(count), abs=EXACT)
    assert share == pytest.approx(count / size ** (size**2), rel=EXACT)


def test_a_mean_loss_is_that_of_all_questions_and_ends_stand_behind_shorter_answers() -> None:
    nats, share = mean_loss([[(0, 1)], [(0,), (1, 2)]])  # the second one: two even tokens, each tells the other
    assert nats == pytest.approx(math.log(2) / 2, abs=EXACT)
    assert share == pytest.approx((1 + 1 / 2) / 2, abs=EXACT)


def test_of_copies_all_but_one_entropy_is_lost() -> None:
    law = {(number,) * 4: 1.0 for number in range(3)}
    assert total_correlation(law) == pytest.approx(4 * math.log(3) - math.log(3), abs=EXACT)
