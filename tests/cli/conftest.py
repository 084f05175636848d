"""A folder with a small scenario."""

from pathlib import Path

import pytest

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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a test, in which its commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.toml").write_text(SMALL)
    return tmp_path
