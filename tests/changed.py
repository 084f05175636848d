"""Print the test files that mirror what differs from main, for `make test CHANGED=1`.

A change of what several tests share is mirrored by no file: then, and before a change lands, run them all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.mirror import ROOMS, mirrored

ROOT = Path(__file__).parents[1]


def changed(base: str = "main", root: Path = ROOT) -> list[Path]:
    """Return the files that differ from a commit, committed or not, from the root on."""
    known = ("diff", "--name-only", "--diff-filter=d", base), ("ls-files", "--others", "--exclude-standard")
    return [Path(name) for command in known for name in _git(root, *command)]


def mirrors_of(files: list[Path], root: Path = ROOT) -> list[Path]:
    """Return the test files that mirror these, which exist; a test file mirrors itself."""
    return sorted({test for file in files for test in _tests(file) if (root / test).exists()})


def _tests(file: Path) -> Iterator[Path]:
    if file.suffix != ".py":
        return
    if file.parts[0] == "tests" and file.name.startswith("test_"):
        yield file
    if file.parts[0] in ROOMS:
        yield mirrored(file)
        yield mirrored(file).with_name("test_contract.py")


def _git(root: Path, *command: str) -> list[str]:
    return subprocess.run(["git", *command], cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()


if __name__ == "__main__":
    tests = mirrors_of(changed(*sys.argv[1:]))
    if not tests:
        sys.exit("Nothing that differs from main has a test file of its own. Without CHANGED=1 all tests run.")
    print(*tests)
