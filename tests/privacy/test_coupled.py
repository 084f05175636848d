"""Mechanisms that keep their noise multiplier pass, and each way of writing one wrongly is caught."""

from collections.abc import Callable

import pytest
import torch

from benchmarks._broken_mechanisms import (
    LEAKS,
    MUTANTS,
    NOISE,
    RECORDS,
    faults_of,
    faults_of_shuffling,
    noise_like,
    plus,
    private,
)
from fedsim.core.types import Batch, Tensors
from fedsim.privacy.coupled import check_step


def test_what_keeps_its_statement_passes_and_its_distance_is_the_stated_one() -> None:
    outcome = check_step(private, RECORDS, NOISE)
    assert outcome.faults == ()
    assert outcome.neighbours == 3 * (2 * 13 + 1)
    # Upper bounds of measured noise: six standard errors of 64 pairs are 11 % for 24 entries.
    assert 0.8 < outcome.distance / outcome.max_distance <= 1.0 + 1e-5


WRONG = {**MUTANTS, **LEAKS}
SENTENCES = [sentence for _, sentence in WRONG.values()]


def test_eighteen_mechanisms_are_broken_and_one_of_them_shuffles() -> None:
    assert len(MUTANTS) + len(faults_of_shuffling()) == 18
    assert "not drawn by Poisson sampling" in faults_of_shuffling()[0]


@pytest.mark.parametrize(
    ("mutant", "sentence"),
    [  # quick tests see each sentence once
        pytest.param(*wrong, marks=pytest.mark.slow if wrong[1] in SENTENCES[:n] else (), id=name)
        for n, (name, wrong) in enumerate(WRONG.items())
    ],
)
def test_a_step_that_is_written_wrongly_is_caught(mutant: Callable[[Batch, int, int], Tensors], sentence: str) -> None:
    faults = faults_of(mutant)
    assert any(sentence in fault for fault in faults), faults


def test_records_that_are_no_numbers_have_neighbours_too() -> None:
    words = Batch(torch.arange(12).reshape(4, 3), torch.arange(4))

    def counts(batch: Batch, seed: int, step: int) -> Tensors:
        total = {"words": torch.bincount(batch.inputs.flatten(), minlength=12).float() / 3**0.5}
        return plus(total, noise_like(total, seed, step, 2.0))

    def twice(batch: Batch, seed: int, step: int) -> Tensors:
        return counts(Batch(batch.inputs.repeat(1, 2), batch.labels), seed, step)

    assert check_step(counts, words, NOISE).faults == ()
    assert check_step(twice, words, NOISE).faults
