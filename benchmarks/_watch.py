"""A watch that times an attack from outside, and scores its guesses while its own clock stands still.

Seconds are those of the processor, user and system: of one thread on a quiet machine the same as by the clock, and on a
busy one not lengthened by the turns that other programs take.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from torch import Tensor

from benchmarks._victims import Victim
from fedsim.core.types import Step
from fedsim.metrics import image


class Goal(NamedTuple):
    """A score to reach: MSE (normalised units) below a bound, or PSNR (dB) or SSIM at least it."""

    metric: str
    bound: float


class Scores(NamedTuple):
    """Of one image: MSE in normalised units, PSNR in dB and SSIM in pixels."""

    mse: float
    psnr: float
    ssim: float

    def reach(self, goal: Goal) -> bool:
        """Return whether a goal is reached."""
        value = float(getattr(self, goal.metric))
        return value < goal.bound if goal.metric == "mse" else value >= goal.bound


class Reached(Exception):
    """A watched attack has reached its goal; ends the attack."""


class Watch:
    """Told of every iteration of an attack on one image.

    Attributes:
        marks: seconds of the attack until each iteration's report.
        guess: the latest guess.
    """

    def __init__(self, victim: Victim, goal: Goal | None) -> None:
        """Start the clock; with a goal, the attack ends when a guess reaches it."""
        self._victim = victim
        self._goal = goal
        self.marks: list[float] = []
        self.guess: Tensor | None = None
        self._begin = time.process_time()

    def __call__(self, step: Step) -> None:
        """Note an iteration.

        Raises:
            Reached: the guess reaches the goal.
        """
        now = time.process_time()
        self.marks.append(now - self._begin)
        self.guess = step.guess
        if self._goal is not None and scores_of(self._victim, step.guess).reach(self._goal):
            raise Reached
        self._begin += time.process_time() - now

    def seconds(self) -> float:
        """Return the seconds since the start, without those of scoring."""
        return time.process_time() - self._begin


def scores_of(victim: Victim, guess: Tensor) -> Scores:
    """Score the guess (1, C, H, W) of a single image."""
    original, spec = victim.batch.inputs, victim.spec
    guess = guess.detach().to(original)
    ours, theirs = image.to_pixels(guess, spec), image.to_pixels(original, spec)
    return Scores(float(image.mse(guess, original)), float(image.psnr(ours, theirs)), float(image.ssim(ours, theirs)))
