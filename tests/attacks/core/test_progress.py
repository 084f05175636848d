"""Parts of a search report as one."""

from dataclasses import replace

import pytest
import torch

from attacks.core.progress import Numbered, shift_progress
from fedsim.core.types import Step

STEP = Step(restart=1, iteration=3, iterations=10, objective=0.5, best=0.4, guess=torch.zeros(1, 2))


def test_a_part_counts_on_behind_earlier_ones() -> None:
    told: list[Step] = []
    shift_progress(told.append, restarts=4, done=20, iterations=30, best=0.2)(STEP)
    assert told == [Step(5, 23, 30, 0.5, 0.2, STEP.guess)]
    assert told[0].guess is STEP.guess


def test_the_first_part_is_told_as_it_is() -> None:
    told: list[Step] = []
    shift_progress(told.append)(STEP)
    assert told == [Step(1, 3, 10, 0.5, 0.4, STEP.guess)]


def test_searches_one_after_the_other_are_numbered_through() -> None:
    told: list[Step] = []
    numbered = Numbered(told.append)
    for iteration in (1, 2):
        numbered(replace(STEP, iteration=iteration))
    numbered(replace(STEP, iteration=1, iterations=4))
    assert [(step.restart, step.iteration, step.iterations) for step in told] == [(0, 1, 10), (0, 2, 10), (0, 3, 6)]
    assert not numbered.has_stopped


def test_whoever_is_told_may_stop() -> None:
    def stop(_step: Step) -> None:
        raise RuntimeError("enough")

    numbered = Numbered(stop)
    with pytest.raises(RuntimeError, match="enough"):
        numbered(STEP)
    assert numbered.has_stopped
