"""The text of a scenario file."""

from __future__ import annotations

import stat
from pathlib import Path

from fedsim.core.errors import ScenarioError, nearest

_LARGEST = 4 << 20  # bytes; a written scenario has thousands


def read_source(path: Path) -> bytes:
    """Return what a scenario file holds.

    Raises:
        ScenarioError: it is missing, cannot be read, is no regular file, or is too large for a scenario.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ScenarioError(f"{path} is no regular file, expected a scenario file (TOML).")
        if about.st_size > _LARGEST:
            raise ScenarioError(f"{path} has {about.st_size:,} bytes, expected a scenario of at most {_LARGEST:,}.")
        return path.read_bytes()
    except FileNotFoundError as error:
        siblings = [str(p) for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise ScenarioError(f"there is no scenario file {path}.{nearest(str(path), siblings)}") from error
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}") from error
