"""A subprocess gets its environment, folder and messages, and ends with all its descendants."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.supervisor import descendants
from fedsim.processes import frames
from fedsim.processes.child_process import ChannelClosed, ChildProcess
from fedsim.processes.frames import FrameError
from tests.processes.waiting import is_alive, until

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
SLEEP = "import time; time.sleep(600)\n"
READY = "print(flush=True)\n"
ECHO = (
    "import sys\nfrom fedsim.processes import frames\n"
    "for kind, payload in frames.read_all(sys.stdin.buffer):\n"
    "    sys.stdout.buffer.write(frames.frame(kind, payload[::-1])); sys.stdout.buffer.flush()\n"
)


def python(code: str, **options: Any) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", code], **options)


def writing(content: bytes, then: str = "") -> ChildProcess:
    return python(f"import os; os.write(1, {content!r})\n{then}")


def test_the_program_gets_its_environment_its_folder_and_its_log(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), sorted(os.environ.items()), file=sys.stderr); sys.exit(3)"
    with (tmp_path / "log").open("w") as log, python(code, env={"A": "1"}, cwd=tmp_path, stderr=log) as child:
        assert child.wait(30) == 3
        assert child.code == 3
    text = (tmp_path / "log").read_text()
    assert text.startswith(f"{tmp_path} ")
    assert "('A', '1')" in text
    assert "HOME" not in text


def test_frames_of_any_size_travel_both_ways() -> None:
    large = bytes(range(256)) * (1 << 13)
    with python(ECHO, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as child:
        for kind, payload in ((b"a", b"abc"), (b"b", b""), (b"c", large)):
            sender = threading.Thread(target=child.send, args=(frames.frame(kind, payload),))
            sender.start()
            assert child.receive(len(large)) == (kind, payload[::-1])
            sender.join()
        child.send(frames.frame(b"d", b"abc"))
        with pytest.raises(FrameError, match="^3 bytes, expected at most 2$"):
            child.receive(2, 30)


def test_a_frame_that_is_not_complete_in_time_is_received_later() -> None:
    frame = frames.frame(b"a", b"abc")
    code = f"import os; os.write(1, {frame[:10]!r}); os.read(0, 1); os.write(1, {frame[10:]!r}); os.read(0, 1)"
    with python(code) as child:
        assert child.receive(3, 0.5) is None
        assert child.receive(3, 0) is None
        child.send(b"x")
        assert child.receive(3, 30) == (b"a", b"abc")


@pytest.mark.parametrize("end", [0, 1, 9, 11])
def test_a_frame_that_is_cut_off_closes_the_channel(end: int) -> None:
    with writing(frames.frame(b"a", b"abc")[:end], "raise SystemExit(4)") as child:
        with pytest.raises(ChannelClosed):
            child.receive(3, 30)
        assert child.wait(30) == 4


def test_a_program_that_writes_without_a_pause_does_not_hold_the_caller() -> None:
    with writing(
        frames.frame(b"a", b"")[:1] + b"\xff" * 7 + b"\x00", "while True: os.write(1, bytes(1 << 20))"
    ) as child:
        begin = time.monotonic()
        assert child.receive(1 << 60, 0.2) is None
        assert time.monotonic() - begin < 10


def test_the_caller_looks_up_while_the_program_reads_nothing() -> None:
    looks = list[int]()

    def check_cancelled() -> None:
        looks.append(1)
        if len(looks) > 5:
            raise KeyboardInterrupt

    with python(SLEEP) as child:
        with pytest.raises(KeyboardInterrupt):
            child.send(bytes(1 << 22), check_cancelled)
        assert child.code is None


def test_bytes_for_a_program_that_has_ended_are_lost() -> None:
    with python("") as child:
        child.wait(30)
        child.send(bytes(1 << 20))
        with pytest.raises(ChannelClosed):
            child.receive(1)


def test_a_program_that_ignores_sigterm_is_killed() -> None:
    with python(STUBBORN + READY + SLEEP) as child:
        assert child.stdout.read(1) == b"\n"
        pid = child.pid
    assert child.code == -signal.SIGKILL
    assert not is_alive(pid)


def test_a_program_does_not_react_to_its_end() -> None:
    polite = "import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(5))\n"
    with python(polite + READY + SLEEP) as child:
        assert child.stdout.read(1) == b"\n"
        assert child.end() == -signal.SIGKILL
        assert child.end() == -signal.SIGKILL


@pytest.mark.parametrize(("grace", "code"), [(0.0, -signal.SIGKILL), (30.0, 5)])
def test_a_program_may_end_by_itself_within_the_grace(grace: float, code: int) -> None:
    with python("import os; os.close(1); os.read(0, 1); os._exit(5)") as child:
        with pytest.raises(ChannelClosed):
            child.receive(1, 30)
        if grace:
            child.send(b"x")
        assert child.close(grace) == code


def test_a_supervisor_that_does_not_end_is_killed_with_the_program() -> None:
    with python(READY + SLEEP, patience=0.3) as child:
        assert child.stdout.read(1) == b"\n"
        (program,) = descendants(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        assert child.end() == -signal.SIGKILL
    assert until(lambda: not is_alive(program))


FAMILY = """
import os
for leaves in (False, True):
    if os.fork() == 0:
        if leaves:
            os.setsid()
        import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(1, f"{os.getpid()}\\n".encode())
        break
else:
    os.write(1, f"{os.getpid()}\\n".encode())
"""


def family(then: str, **options: Any) -> tuple[ChildProcess, list[int]]:
    """Start a program with a child in its process group and a child in another session; return their ids, sorted."""
    child = python(FAMILY + then, **options)
    text = b""
    while text.count(b"\n") < 3:
        text += child.stdout.read(1)
    return child, sorted(map(int, text.split()))


def test_a_supervised_program_ends_with_all_its_descendants() -> None:
    child, pids = family(SLEEP)
    assert len(pids) == 3
    assert all(map(is_alive, pids))
    child.close()
    assert not any(map(is_alive, pids))


def test_another_thread_ends_a_program_that_is_waited_for() -> None:
    with python(SLEEP) as child:
        ended = threading.Timer(0.3, child.end)
        ended.start()
        with pytest.raises(ChannelClosed):
            child.receive(1)
        ended.join()
        assert child.code == -signal.SIGKILL


def test_a_stream_that_was_not_asked_for_is_an_error_of_the_caller() -> None:
    with python("", stdout=None) as child, pytest.raises(ValueError, match="without this pipe"):
        child.receive(1)


def test_the_program_and_its_descendants_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = (
        "import sys, time\nfrom fedsim.processes.child_process import ChildProcess\n"
        f"with open({str(told)!r}, 'w') as log:\n"
        f"    ChildProcess([sys.executable, '-c', {FAMILY + SLEEP!r}], stdout=log)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        assert until(lambda: told.exists() and told.read_text().count("\n") == 3)
    finally:
        parent.kill()
        parent.wait()
    pids = [int(line) for line in told.read_text().split()]
    assert until(lambda: not any(map(is_alive, pids)))
