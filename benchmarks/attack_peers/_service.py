"""What a program is asked, one line of JSON a task, and what it answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from benchmarks._victims import Victim, read
from benchmarks._watch import Goal, Watch, scores_of
from fedsim.core.types import Config


class Task(Config):
    """Single images to attack.

    Victims come in files. Whoever parses a data set first leaves the allocator with larger blocks, which happens to
    save the attack from asking the kernel for memory in every iteration.

    Attributes:
        folder: where the victims are stored.
        model: name and settings of their model.
        victim: number of the first victim.
        together: how many to attack at once.
        attack: name of the attack, for programs that know several.
        settings: of the attack.
        goal: ends the attack when a guess of the first victim reaches it.
    """

    folder: Path
    model: Mapping[str, Any]
    victim: int = 0
    together: int = 1
    attack: str = "dropout-inversion"
    settings: Mapping[str, Any] = Field(default={})
    goal: Goal | None = None

    def victims(self) -> list[Victim]:
        """Return the victims, whose labels are known."""
        return read(self.folder, self.model, range(self.victim, self.victim + self.together))


class Run(Config):
    """How an attack went.

    Attributes:
        marks: seconds until each iteration.
        seconds: of the whole attack, or until its goal was reached.
        reached: whether the goal was reached.
        mse: of the first victim's guess, in normalised units.
        psnr: the same in dB.
        ssim: the same, structural similarity.
    """

    marks: tuple[float, ...]
    seconds: float
    reached: bool
    mse: float
    psnr: float
    ssim: float


def ended(victim: Victim, watch: Watch, guess: Tensor | None) -> Run:
    """Stop the clock and report; without a guess of its own, the attack ended at its goal."""
    seconds = watch.seconds()
    shown = watch.guess if guess is None else guess
    assert shown is not None
    scores = scores_of(victim, shown)
    return Run(marks=tuple(watch.marks), seconds=seconds, reached=guess is None, **scores._asdict())


def serve(answer: Callable[[Task], Run]) -> None:
    """Answer tasks from standard input until it ends. What else is printed goes to standard error."""
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(answer(Task.model_validate_json(line)).model_dump_json(), file=out, flush=True)
