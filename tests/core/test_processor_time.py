"""Processor time counts what this process started, while it runs and behind its end."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedsim.core import processor_time
from fedsim.core.processor_time import processor_seconds
from fedsim.core.supervisor import descendants
from fedsim.core.time_budget import DeadlineReached, check_deadline, seconds_left, time_limit

BUSY = "import time\nwhile time.process_time() < {seconds}: pass\nprint(flush=True)\nimport sys; sys.stdin.read()"
NESTED = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"


@contextmanager
def busy(seconds: float, *, is_nested: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has used so many processor seconds when the block begins, and lives on."""
    code = BUSY.format(seconds=seconds)
    code = NESTED.format(code=code) if is_nested else code
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="a living process is read from /proc")
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_process_counts_while_it_lives_and_once_behind_its_end(is_nested: bool) -> None:
    before, own = processor_seconds(is_fresh=True), time.process_time()
    with busy(0.5, is_nested=is_nested):
        living = processor_seconds(is_fresh=True) - before
    ended = processor_seconds(is_fresh=True) - before
    used = time.process_time() - own
    assert living > 0.4
    assert living <= ended < 2 * living + used  # a time that counted twice would be above


def test_the_time_of_others_is_read_now_and_then_and_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, others = [100.0], [3.0]
    started = processor_time._Started()
    monkeypatch.setattr(processor_time.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(processor_time, "_measure_children", lambda: others[0])
    assert started.seconds(is_fresh=False) == 3.0
    others[0] = 5.0
    clock[0] += 0.1
    assert started.seconds(is_fresh=False) == 3.0
    assert started.seconds(is_fresh=True) == 5.0
    others[0] = 4.0  # a process has ended, and its parent ignored it
    clock[0] += 1.0
    assert started.seconds(is_fresh=False) == 5.0
    others[0] = 6.0
    assert started.seconds(is_fresh=True) == 7.0


@pytest.mark.skipif(sys.platform != "linux", reason="a living process is read from /proc")
def test_a_deadline_ends_where_a_started_process_has_used_the_time_up() -> None:
    with time_limit(0.3):
        check_deadline()
        with busy(0.5):
            time.sleep(0.25)  # until the time of others is read again
            assert seconds_left() == 0.0
            with pytest.raises(DeadlineReached):
                check_deadline()


@pytest.mark.skipif(sys.platform != "linux", reason="a living process is read from /proc")
def test_a_process_that_its_parent_ignored_hides_no_later_time() -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "spin = 'import time\\nwhile time.process_time() < 0.6: pass\\ntime.sleep(1)'\n"
        "child = subprocess.Popen([sys.executable, '-c', spin])\n"
        "time.sleep(60)"
    )
    begin = processor_seconds(is_fresh=True)
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        while processor_seconds(is_fresh=True) - begin < 0.5:
            time.sleep(0.05)
        pids = set(descendants(os.getpid()))
        while set(descendants(os.getpid())) == pids:
            time.sleep(0.05)
        before = processor_seconds(is_fresh=True)
        assert before - begin >= 0.5
        with busy(0.4):
            assert processor_seconds(is_fresh=True) - before >= 0.35
        parent.kill()
