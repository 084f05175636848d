"""Python environments of peers that do not fit into this one, made once in the cache folder."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path


def python_with(requirement: str) -> Path:
    """Return the interpreter of an environment of its own that holds a pinned package.

    What the package needs comes from this environment where it fits, torch above all, so that both compute with the
    same kernels; the rest is installed beside it.

    Raises:
        subprocess.CalledProcessError: the package cannot be installed.
    """
    version, home = sysconfig.get_python_version(), sysconfig.get_path("purelib")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "fedsim" / requirement / f"python{version}"
    python, done = folder / "bin" / "python", folder / ".installed"
    if done.exists() and done.read_text() == home:
        return python
    venv.create(folder, with_pip=True, clear=True)
    (folder / "lib" / f"python{version}" / "site-packages" / "shared.pth").write_text(home)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement], check=True)
    done.write_text(home)
    return python
