"""A folder with a small scenario, and the command line in the process of a test."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.cli import main as cli

SMALL = """
title = "small <b>run</b>"
[data]
name = "digits"
[model]
name = "mlp"
width = 24
[federation]
clients = 4
[[attacks]]
name = "dropout-inversion"
max_iterations = 5
"""

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.toml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command in this process, and return its exit code and what it wrote."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run
