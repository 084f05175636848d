"""axe-core, which finds what bars the way to a page."""

import subprocess
import tarfile
from pathlib import Path

import pytest


def axe_core(folder: Path) -> str:
    """Return its source, from the package registry of the machine; without one the test is skipped."""
    got = subprocess.run(["npm", "pack", "axe-core@4"], cwd=folder, capture_output=True, timeout=120, check=False)
    if got.returncode:
        pytest.skip("npm cannot fetch axe-core")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")
