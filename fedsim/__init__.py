"""fedsim: what does a federated-learning server learn about its clients' data, and what does it cost to stop it?

What a user imports, each loaded when it is asked for:

    run          a scenario, to a `Run`
    sweep        every run of a scenario's sweep, to `Runs`
    load         the `Run` or `Runs` in a folder
    reconstruct  an attacker's guess behind a gradient from anywhere
    audit        what your own model gives away, and what it would cost to stop that
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.api import Run, Runs, load, run, sweep
    from fedsim.audit import audit
    from fedsim.reconstruction import reconstruct

try:
    __version__ = version("fedsim-privacy")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = ["Run", "Runs", "__version__", "audit", "load", "reconstruct", "run", "sweep"]

_HOMES = {
    **dict.fromkeys(("Run", "Runs", "load", "run", "sweep"), "fedsim.api"),
    "reconstruct": "fedsim.reconstruction",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import fedsim` alone loads no torch."""
    if name == "audit":
        return importlib.import_module("fedsim.audit")  # called itself; see fedsim.audit.callable_module
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
