"""ParallelBench with the exact model: sampled accuracies are the formulas', greedy strategies do what theory says."""

import math

import pytest
import torch
from torch import Tensor, nn

from fedsim.bench.parallel import (
    Answered,
    Exact,
    Measured,
    Network,
    SpelledLists,
    Strategy,
    best,
    draw,
    draw_samples,
    grid,
    measure,
    oracle,
)
from fedsim.bench.theory import accuracy, one_step_accuracy
from fedsim.bench.written import encode, write_list
from fedsim.data._lists import LETTERS, OPERATIONS, ListTokenizer, Sample

DRAWN = {"temperature": 1.0, "confidence": "random"}


@pytest.mark.paper_step("list-operations", "strategies of unmasking, measured")
@pytest.mark.parametrize(
    ("operation", "at_once"),
    [
        ("shuffle", 1),
        pytest.param("shuffle", 2, marks=pytest.mark.slow),
        pytest.param("insert-random", 2, marks=pytest.mark.slow),
        pytest.param("remove-random", 2, marks=pytest.mark.slow),
        pytest.param("replace-random", 2, marks=pytest.mark.slow),
    ],
)
def test_drawn_in_random_order_the_accuracy_is_that_of_the_theory(operation: str, at_once: int) -> None:
    count = 120
    letters = {"insert-random": 3, "remove-random": 5}.get(operation, 4)  # each answer has four places
    lists = draw_samples(operation, [letters], count, 0)
    found = measure(Strategy("drawn", "fixed", DRAWN, at_once), Exact(), lists, 0)
    expected = accuracy(list(lists[0].answers()), at_once)
    assert abs(found.accuracy.value - expected) <= 3 * math.sqrt(expected * (1 - expected) / count)
    assert found.tokens_a_pass == at_once


def test_with_ends_behind_the_letters_the_accuracy_is_that_of_the_longer_answers() -> None:
    count, lists = 120, draw_samples("replace-random", [3], 120, 0)
    found = measure(Strategy("drawn", "fixed", DRAWN, 2), Exact(places=6), lists, 0)
    expected = accuracy([(*own, *[LETTERS] * 3) for own in lists[0].answers()], 2)
    assert abs(found.accuracy.value - expected) <= 3 * math.sqrt(expected * (1 - expected) / count)
    assert {own.places for own in found.answers} == {6}


def test_latin_squares_drawn_two_cells_a_step_are_right_as_often_as_the_theory_says() -> None:
    count, puzzles = 120, draw("latin-square-3", [], 120, 0)
    found = measure(Strategy("drawn", "fixed", DRAWN, 2), Exact(), puzzles, 0)
    expected = accuracy(list(puzzles[0].answers()), 2)
    assert 0.5 < expected < 0.9
    assert abs(found.accuracy.value - expected) <= 3 * math.sqrt(expected * (1 - expected) / count)


def test_sentences_of_different_lengths_end_and_no_word_stands_behind_an_end() -> None:
    asked = draw("sentence-hard", [], 2, 0)
    found = measure(Strategy("one", "fixed", DRAWN, 1), Exact(), asked, 0)
    assert (found.accuracy.value, found.tokens_a_pass) == (1, 1)
    assert {own.places for own in found.answers} == {8}
    assert Exact().parse_list((4, LETTERS, 5)) is None
    assert Exact().parse_list((4, 5, LETTERS)) == (4, 5)


@pytest.mark.parametrize("strict", [False, True])
def test_lists_of_names_are_written_sign_by_sign(strict: bool) -> None:
    lists = draw_samples("replace-random", [3], 2, 0)
    found = measure(Strategy("one", "fixed", DRAWN, 1), SpelledLists(strict=strict), lists, 0)
    assert (found.accuracy.value, found.tokens_a_pass) == (1, 1)
    shown = write_list(next(lists[0].answers()))
    tokens = encode(shown.replace('"', "", 1))
    assert (SpelledLists(strict=strict).parse_list(tokens) is None) == strict


def test_greedy_strategies_fail_and_dawdle_as_predicted() -> None:
    threshold = Strategy("threshold", "threshold", {"threshold": 0.9})
    long = measure(threshold, Exact(), draw_samples("replace-random", [12], 5, 0), 0)
    assert (long.accuracy.value, long.tokens_a_pass) == (0, 12)  # each place is likelier kept than 0.9
    short = measure(threshold, Exact(), draw_samples("replace-random", [8], 5, 0), 0)
    assert (short.accuracy.value, short.tokens_a_pass) == (1, 1)
    shuffled = measure(threshold, Exact(), draw_samples("shuffle", [5], 5, 0), 0)
    assert (shuffled.accuracy.value, shuffled.tokens_a_pass) == (1, 1)
    one_step = measure(Strategy("greedy", "fixed", {}, 8), Exact(), draw_samples("replace-random", [8], 5, 0), 0)
    assert one_step.accuracy.value == 0  # greedy in one step copies the list: not the 1/e of a draw
    copied = measure(threshold, Exact(), draw_samples("copy", [6], 5, 0), 0)
    assert (copied.accuracy.value, copied.tokens_a_pass) == (1, 6)


class Knowing(nn.Module):
    """Writes what stands in the prompt, with ends behind it: the perfect model of copies."""

    def __init__(self) -> None:
        super().__init__()
        self.own = ListTokenizer()
        self.mask_token = self.own.vocabulary

    def forward(self, tokens: Tensor) -> Tensor:
        scores = torch.zeros(*tokens.shape, self.own.vocabulary)
        listed = tokens[:, 4:12]
        wanted = listed.where(listed != self.own.padding, self.own.end)
        return scores.scatter(-1, torch.cat((tokens[:, :13] * 0, wanted), 1)[..., None], 50.0)


def test_a_network_reads_prompts_and_its_answers_end_behind_the_list() -> None:
    found = measure(Strategy("all", "threshold"), Network(Knowing()), draw_samples("copy", [3, 5], 10, 0), 0)
    assert (found.accuracy.value, found.tokens_a_pass) == (1, 8)
    wrong = measure(Strategy("all", "threshold"), Network(Knowing()), draw_samples("reverse", [3, 5], 10, 0), 0)
    assert wrong.accuracy.value == 0


def test_lists_are_of_each_length_equally_often_and_the_same_for_a_seed() -> None:
    lists = draw_samples("sort", [3, 4, 5, 6], 40, 3)
    assert [sum(len(own.items) == n for own in lists) for n in (3, 4, 5, 6)] == [10] * 4
    assert lists == draw_samples("sort", [3, 4, 5, 6], 40, 3)
    assert lists != draw_samples("sort", [3, 4, 5, 6], 40, 4)


def test_the_grid_has_every_strategy_once_and_the_summary_takes_the_best() -> None:
    own = grid(8)
    assert len({each.label for each in own}) == len(own) == (4 + 2) * (1 + 2 + 3 + 4) + 4 * (6 + 5)
    slow, quick = Answered(True, 8, 8, 80, 1.0), Answered(True, 8, 2, 20, 0.0)
    wrong = Answered(False, 8, 1, 10, 0.0)
    strategy = Strategy("any", "fixed")
    measured = [Measured("copy", strategy, rows) for rows in ((slow, slow), (quick, wrong), (wrong, wrong))]
    assert best(measured) == 1
    assert oracle(measured) == (1.0, 16 / 10)
    assert best(measured[2:]) is None
    assert oracle(measured[2:]) == (0.0, 0.0)


def test_left_to_right_is_one_and_its_reverse_is_minus_one() -> None:
    lists = draw_samples("copy", [6], 3, 0)
    assert measure(Strategy("one", "fixed", {}, 1), Exact(), lists, 0).left_to_right == pytest.approx(1)
    assert measure(Strategy("all", "threshold"), Exact(), lists, 0).left_to_right == 0


def test_answers_by_the_identity_do_not_count_as_shuffles() -> None:
    sample = Sample("shuffle", (0, 1, 2))
    assert not sample.is_answer((0, 1, 2))
    assert one_step_accuracy(list(sample.answers())) == pytest.approx(0.2240, abs=5e-5)
    assert len(OPERATIONS) == 10
    assert LETTERS == 26
