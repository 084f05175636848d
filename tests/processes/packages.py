"""Packages of the user's own that are installed for one test."""

import importlib
import sys
import textwrap
from pathlib import Path

import pytest


def install(site: Path, monkeypatch: pytest.MonkeyPatch, group: str, module: str, code: str) -> None:
    """Install a package with one module of methods, for this process and its children, and import the module."""
    about = site / f"{module}-1.dist-info"
    about.mkdir(parents=True)
    (site / f"{module}.py").write_text(textwrap.dedent(code))
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{module} = {module}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.import_module(module)
