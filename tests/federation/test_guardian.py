"""A guardian ends what it was told of, and removes the folder, unless it is dismissed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from fedsim.federation.guardian import guard, serve


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)


def test_groups_are_ended_and_the_folder_goes_where_the_lines_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "below").mkdir(parents=True)
    process = sleeper()
    gone = sleeper()
    gone.kill()
    gone.wait()
    serve([f"{gone.pid}\n", f"{process.pid}\n"], folder)
    assert process.wait(10) == -signal.SIGKILL
    assert not folder.exists()


def test_a_guardian_that_is_dismissed_touches_nothing(tmp_path: Path) -> None:
    process = sleeper()
    try:
        serve([f"{process.pid}\n", "done\n"], tmp_path)
        assert process.poll() is None
        with guard(tmp_path) as guardian:
            guardian.watch(process.pid)
        assert process.poll() is None
        assert tmp_path.exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
