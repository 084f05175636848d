"""Commands that a person types: in processes of their own, or in that of a test by the fixture `command`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Say = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


def fedsim(*arguments: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedsim.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path), "COLUMNS": "200"},
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
