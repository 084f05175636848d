"""What a program is asked, one line of JSON a task, and what it answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from benchmarks._victims import Victim, read
from fedsim.core.types import Config, Step
from fedsim.metrics import image


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
    """

    folder: Path
    model: Mapping[str, Any]
    victim: int = 0
    together: int = 1
    attack: str = "dropout-inversion"
    settings: Mapping[str, Any] = Field(default={})

    def victims(self) -> list[Victim]:
        """Return the victims, whose labels are known."""
        return read(self.folder, self.model, range(self.victim, self.victim + self.together))


class Watch:
    """Processor seconds of an attack at each report of an iteration; a busy machine does not lengthen them.

    Attributes:
        marks: seconds of the attack until each iteration's report.
    """

    def __init__(self) -> None:
        """Start the clock."""
        self.marks: list[float] = []
        self._begin = time.process_time()

    def __call__(self, _step: Step) -> None:
        """Note an iteration."""
        self.marks.append(time.process_time() - self._begin)


class Run(Config):
    """How an attack went.

    Attributes:
        marks: seconds until each iteration.
        psnr: of the first victim's guess, in dB.
    """

    marks: tuple[float, ...]
    psnr: float


def finish_run(victim: Victim, watch: Watch, guess: Tensor) -> Run:
    """Report on the guess (1, C, H, W) of a single image."""
    original, spec = victim.batch.inputs, victim.spec
    guess = guess.detach().to(original)
    psnr = image.psnr(image.to_pixels(guess, spec), image.to_pixels(original, spec))
    return Run(marks=tuple(watch.marks), psnr=float(psnr))


def serve(answer: Callable[[Task], Run]) -> None:
    """Answer tasks from standard input until it ends. What else is printed goes to standard error."""
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(answer(Task.model_validate_json(line)).model_dump_json(), file=out, flush=True)
