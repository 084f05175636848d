"""A watch that times the iterations of an attack from outside.

Seconds are those of the processor, user and system: of one thread on a quiet machine the same as by the clock, and on a
busy one not lengthened by the turns that other programs take.
"""

from __future__ import annotations

import time

from fedsim.core.types import Step


class Watch:
    """Told of every iteration of an attack.

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
