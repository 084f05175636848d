from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsim.core.best_step import BestStep, guess_from_step
from fedsim.core.hooks import Attack
from fedsim.core.time_budget import OUT_OF_TIME, DeadlineReached, seconds_left, time_limit
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def step(objective: float, value: float = 0.0, size: int = 1) -> Step:
    return Step(0, 1, 9, objective, objective, torch.full((size, 1, 8, 8), value))


def test_the_nearest_end_counts_and_no_end_is_set_outside() -> None:
    assert seconds_left() == math.inf
    with time_limit(100.0):
        with time_limit(None):
            assert 0 < seconds_left() <= 100
        with time_limit(1000.0):
            assert seconds_left() <= 100
        with time_limit(0.0):
            assert seconds_left() == 0
        assert seconds_left() > 0
    assert seconds_left() == math.inf


def test_the_best_step_is_kept_and_the_first_one_behind_the_end_ends_the_search() -> None:
    shown = list[float]()
    with time_limit(0.2):
        watch = BestStep(lambda one: shown.append(one.objective))
        watch(step(2.0, 2.0))
        with time_limit(0.0):
            watch(step(1.0, 1.0))  # a shorter end, which is not this search's
        work(0.25)
        with pytest.raises(DeadlineReached):
            watch(step(3.0, 3.0))
    assert shown == [2.0, 1.0, 3.0]


class Slow(Attack[Config]):
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        for number in range(10_000):
            on_step(Step(0, number + 1, 10_000, 1.0 / (number + 1), 0.0, torch.zeros(1, 1, 8, 8)))
            work(1e-3)
        raise AssertionError("it was not ended")


def test_an_attack_returns_its_best_guess_when_its_time_is_over(watched: Callable[..., Any]) -> None:
    (observation, *_), attack = watched(), Slow(Config())
    guess = attack(observation, torch.Generator(), seconds=0.05)
    assert (guess.stop_reason, len(guess.inputs)) == (OUT_OF_TIME, 1)
    assert 1 < guess.iterations < 10_000
    both = attack.together([observation] * 2, [torch.Generator()] * 2, [lambda _step: None] * 2, 0.02)
    assert [len(one.inputs) for one in both] == [1, 0]  # nothing was left for the second one
    assert both[1].objective == math.inf


def test_labels_are_those_that_are_granted_or_unknown(watched: Callable[..., Any]) -> None:
    known, *_ = watched(knows=("labels", "batch-size", "dropout-rates", "input-statistics"))
    assert torch.equal(guess_from_step(known, step(1.0)).labels, known.labels)
    assert guess_from_step(watched(knows=("batch-size", "input-statistics"))[0], step(1.0, size=3)).labels.tolist() == [
        -1,
        -1,
        -1,
    ]
