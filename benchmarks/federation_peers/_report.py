"""What a program prints: when its first round ended, the seconds of every round, and its peak memory."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Stopwatch:
    """Call it at the end of every round, and `report` at the end of all."""

    def __init__(self) -> None:
        """Start now."""
        self._marks = [time.perf_counter()]
        self._first = 0.0

    def __call__(self) -> None:
        """End a round."""
        self._marks.append(time.perf_counter())
        self._first = self._first or time.time()

    def report(self) -> None:
        """Print one line of JSON."""
        rounds = [end - begin for begin, end in zip(self._marks, self._marks[1:], strict=False)]
        print(json.dumps({"first": self._first, "rounds": rounds, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return this process's peak memory; getrusage would count what its parent had used before."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(train: Callable[[int, int, str, Stopwatch], None]) -> None:
    """Run a program: clients, rounds and the file of shares from the command line."""
    clients, rounds, shares = sys.argv[1:]
    stopwatch = Stopwatch()
    train(int(clients), int(rounds), shares, stopwatch)
    stopwatch.report()
