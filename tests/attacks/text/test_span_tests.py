"""Which inputs lie in a span: by a threshold, and as outliers under noise, both by hand."""

import math

import pytest
import torch
from scipy import stats

from attacks.core.results import NothingFound
from attacks.text._span_tests import Outliers, ShareThreshold, widest


def test_a_threshold_compares_the_share_of_the_length_outside_of_the_first_span() -> None:
    test = ShareThreshold(tolerance=0.1, max_inside=2)
    scores = test.scores(torch.tensor([[0.0001, 0.9], [0.04, 0.0], [-1e-9, 0.5]]))
    assert scores.tolist() == pytest.approx([0.01, 0.2, 0.0])
    assert test.tokens(scores).tolist() == [True, False, True]
    assert test.prefixes(torch.empty(3, 0), scores).tolist() == [True, False, True]
    assert test.sequences(torch.tensor([[0.1, 0.3], [0.2, 0.0]])).tolist() == pytest.approx([0.3, 0.2])


def test_too_many_prefixes_within_a_threshold_are_no_answer() -> None:
    test = ShareThreshold(tolerance=0.1, max_inside=2)
    assert test.select_prefixes(torch.zeros(2)).tolist() == [True, True]
    with pytest.raises(NothingFound, match="3 prefixes of equal length lie in the span"):
        test.select_prefixes(torch.zeros(3))


def test_outliers_lie_far_below_the_median_logit_of_all() -> None:
    test = Outliers(deviations=5.0, most_tokens=3, most_prefixes=2)
    distances = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.001, 0.003]])
    scores = test.scores(distances)
    expected = [sum(math.log(d / (1 - d)) for d in distance) / 2 for distance in distances.double().tolist()]
    assert scores.tolist() == pytest.approx(expected)
    many = torch.cat([torch.linspace(-1.0, 1.0, 41), torch.tensor([-9.0, -12.0])])
    assert test.tokens(many).nonzero().flatten().tolist() == [41, 42]
    assert test.tokens(torch.cat([many, torch.tensor([-10.0, -11.0])])).sum() == 3  # no more than are allowed


def test_a_prefix_goes_on_with_what_is_nearer_to_its_own_mean_than_to_the_median() -> None:
    test = Outliers(deviations=5.0, most_tokens=3, most_prefixes=2)
    scores = torch.tensor([-8.0, -5.5, -4.5, 0.0, 0.0, 0.0, 0.0])
    before = torch.tensor([[-9.0, -11.0]]).expand(7, 2)
    assert test.prefixes(before, scores).tolist() == [True, True, False, False, False, False, False]
    assert test.prefixes(torch.empty(7, 0), scores).tolist() == [True, True, True, False, False, False, False]
    assert test.sequences(before).tolist() == [-10.0] * 7
    assert test.select_prefixes(scores).tolist() == [True, True, False, False, False, False, False]


def test_a_deviation_is_that_of_a_normal_distribution_and_ends_of_the_range_have_a_score() -> None:
    """Scores of median 0 and median distance 1: the deviation is 1.4826."""
    test = Outliers(deviations=5.0, most_tokens=3, most_prefixes=2)
    usual = [-1.0] * 10 + [0.0] + [1.0] * 11
    assert test.tokens(torch.tensor([-7.5, *usual])).nonzero().flatten().tolist() == [0]
    assert not bool(test.tokens(torch.tensor([-7.3, *usual])).any())
    assert bool(test.scores(torch.tensor([[0.0], [1.0]])).isfinite().all())
    assert (ShareThreshold.overlap, Outliers.overlap) == (1.0, 0.7)


@pytest.mark.parametrize(("width", "size"), [(16, 15), (16, 12), (64, 60), (576, 560)])
def test_chance_lets_less_than_one_input_in_a_thousand_runs_into_the_widest_span(width: int, size: int) -> None:
    """The share of a random vector's square that is outside has a beta distribution."""
    tolerance, free = widest(width, size, 500), width - size
    assert 0 < tolerance <= 2e-3
    assert 500 * stats.beta.cdf(tolerance**2, free / 2, size / 2) <= 1e-3


def test_spans_with_room_are_no_wider_than_rounding_needs() -> None:
    assert widest(576, 100, 50_000) == 2e-3
    assert widest(8, 8, 100) == 0.0
