"""Figures of side channels against closed forms and enumeration."""

import math

import numpy as np
import pytest

from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Limits
from fedsim.generation import generate
from fedsim.questions.generation.metrics import (
    prompt_accuracy,
    secret_extraction_rate,
    trace_auc,
    trace_bits,
    trace_exposure,
)
from tests.components.decoder.lettered import END, LONGEST, Table, probability, texts
from tests.components.generating import make, sources


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def entropy(odds: np.ndarray) -> float:
    return -float(sum(own * math.log2(own) for own in odds.ravel() if own > 0))


def test_prompts_are_the_units_of_accuracy() -> None:
    found = prompt_accuracy(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]))
    assert (found.value, found.n) == (0.75, 2)


def test_the_auc_is_that_of_all_pairs() -> None:
    scores, is_member = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])
    assert trace_auc(scores, is_member, draws()).value == 2.5 / 4


def test_exposure_is_that_of_the_rank_and_ties_are_ranked_at_random() -> None:
    first, chance = trace_exposure(np.array([[9.0, 1, 2, 3], [0.0, 1, 2, 3], [1.5, 1, 2, 3]]), draws())
    assert first.value == pytest.approx((2 + 0 + 2 - math.log2(3)) / 3)
    assert chance == pytest.approx(2 - math.log2(24) / 4)
    tied, _ = trace_exposure(np.ones((4000, 4)), draws())
    assert tied.value == pytest.approx(chance, abs=0.05)  # four standard errors: one rank has a deviation of 0.75 bits


def test_secrets_that_are_written_are_counted() -> None:
    assert secret_extraction_rate([True, False, False, False]).value == 0.25


@pytest.mark.parametrize("seed", [0, 1])
def test_the_bits_of_a_noisy_bit_are_those_of_the_closed_form(seed: int) -> None:
    source = draws(seed)
    prompts = source.integers(2, size=1500)
    figure = (source.random(1500) < np.where(prompts, 0.9, 0.2)).astype(float)[:, None]
    exact = entropy(np.array([0.55, 0.45])) - (entropy(np.array([0.9, 0.1])) + entropy(np.array([0.2, 0.8]))) / 2
    bits = trace_bits(figure, prompts, source, shuffles=19)
    assert bits.information.value == pytest.approx(exact, abs=0.08)  # three standard errors
    assert bits.p == 0.05


def test_the_bits_of_a_texts_length_are_those_of_all_texts_enumerated() -> None:
    """A table of scores writes behind five letters until the end or four tokens: the packets tell the length alone."""
    odds = np.zeros((END, LONGEST + 1))
    for begin in range(END):
        for text in texts():
            odds[begin, len(text)] += probability(text, begin)
        odds[begin, LONGEST] += 1 - odds[begin].sum()  # those without an end are cut there
    exact = entropy(odds.mean(0)) - np.mean([entropy(own) for own in odds])
    each = 300
    asked = [begin for begin in range(END) for _ in range(each)]
    limits = Limits(max_new_tokens=LONGEST, stop_tokens=frozenset({END}))
    condition = GenerationInputs(tuple((begin,) for begin in asked))
    found = generate(make("sampled"), Table(), condition, limits, sources(len(asked)), batch_size=250)
    lengths = np.array([[float(len(own.trace.tokens))] for own in found])
    bits = trace_bits(lengths, np.array(asked), draws(), shuffles=19)
    assert bits.information.low <= exact <= bits.information.high
    assert bits.information.value - bits.chance == pytest.approx(exact, abs=0.05)  # of 1,500 texts


def test_one_bit_is_one_bit_and_what_is_alike_is_none() -> None:
    prompts = np.repeat([0, 1], 60)
    one = trace_bits((1.0 + prompts)[:, None], prompts, draws(), shuffles=19)
    assert one.information.value <= 1.0 == one.information.high
    assert one.information.value == pytest.approx(1.0, abs=0.05)  # as the protocol asks
    none = trace_bits(np.ones((120, 3)), prompts, draws())
    assert (none.information.value, none.p) == (0.0, 1.0)


def test_the_interval_has_the_coverage_that_is_asked_for() -> None:
    prompts = np.repeat([0, 1], 60)
    figures = (prompts + draws(5).normal(size=120))[:, None]
    usual, narrow = (
        trace_bits(figures, prompts, draws(), confidence=own, shuffles=39).information for own in (0.95, 0.9)
    )
    assert usual.low <= narrow.low <= narrow.high < usual.high  # of the same halves, so the ends are nested


def test_chance_is_told_by_a_permutation_test() -> None:
    source = draws(4)
    bits = trace_bits(source.normal(size=(200, 3)), np.repeat(np.arange(5), 40), source, shuffles=19)
    assert bits.p > 0.05
    assert bits.chance > 0.0


def test_the_estimate_is_scikit_learns_where_that_is_sound() -> None:
    selection = pytest.importorskip("sklearn.feature_selection")
    source = draws(2)
    prompts = np.repeat(np.arange(5), 40)
    smooth = (source.normal(size=(200, 2)) + np.stack([prompts, 0 * prompts], 1)).astype(float)
    theirs = selection.mutual_info_classif(smooth, prompts, discrete_features=False, random_state=0) / math.log(2)
    for column, expected in zip(smooth.T, theirs, strict=True):
        found = trace_bits(column[:, None], prompts, draws(), shuffles=1).information.value
        assert found == pytest.approx(expected, abs=1e-6)  # ties are broken by another noise, of 1e-10


def test_few_texts_of_a_prompt_hold_no_more_bits_than_there_are() -> None:
    prompts = np.repeat(np.arange(4), 6)
    found = [
        trace_bits((1.0 + prompts % 2)[:, None], prompts, draws(seed), shuffles=1).information.value
        for seed in range(50)
    ]
    assert np.mean(found) == pytest.approx(1.0, abs=0.13)  # 1 / 24 of bias, four standard errors of the mean
