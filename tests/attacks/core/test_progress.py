"""Parts of a search report as one."""

import torch

from attacks.core.progress import continued
from fedsim.core.types import Step

STEP = Step(restart=1, iteration=3, iterations=10, objective=0.5, best=0.4, guess=torch.zeros(1, 2))


def test_a_part_counts_on_behind_earlier_ones() -> None:
    told: list[Step] = []
    continued(told.append, restarts=4, done=20, iterations=30, best=0.2)(STEP)
    assert told == [Step(5, 23, 30, 0.5, 0.2, STEP.guess)]
    assert told[0].guess is STEP.guess


def test_the_first_part_is_told_as_it_is() -> None:
    told: list[Step] = []
    continued(told.append)(STEP)
    assert told == [Step(1, 3, 10, 0.5, 0.4, STEP.guess)]
