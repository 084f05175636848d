"""Every job is done once, and a killed process is an error of ours; test_lesson compares one process and two."""

import os
import signal

import pytest

from fedsim.core.errors import FedsimError
from fedsim.demo.jobs import results_of


def double(number: int) -> int:
    return 2 * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_job_is_done_once_and_keeps_its_place() -> None:
    assert list(results_of([(double, (number,)) for number in range(3)], 1)) == [(0, 0), (1, 2), (2, 4)]


@pytest.mark.slow
def test_a_killed_process_is_named() -> None:
    with pytest.raises(FedsimError, match="a recording process was killed"):
        list(results_of([(die, ())], 2))
