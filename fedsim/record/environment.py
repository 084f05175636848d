"""Environment of a run for its repetition: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fedsim.record import Environment

_PACKAGES = ("fedsim-privacy", "flwr", "torch", "torchvision", "opacus", "numpy", "matplotlib", "scipy", "pydantic")


def now() -> str:
    """Return the current UTC time in the record's format."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(command: str) -> Environment:
    """Return the environment of this process; `command` is the command line to show."""
    commit = _git("rev-parse", "HEAD")
    return Environment(
        command=command,
        versions={name: _version(name) for name in _PACKAGES},
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        torch_threads=torch.get_num_threads(),
        git_commit=commit,
        git_dirty=bool(_git("status", "--porcelain")) if commit else None,
    )


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@cache  # a process runs the imported code, even if the checkout changes meanwhile
def _git(*arguments: str) -> str | None:
    """Return git's output in the source folder; None if the folder is no checkout of fedsim."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
