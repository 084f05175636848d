"""fedsim: leakage of clients' data to a federated-learning server, and the cost of defenses.

Public names, each imported on first use:

    run          run a scenario; returns a `Run`
    sweep        make every run of a scenario's sweep; returns `Runs`
    load         load the `Run` or `Runs` in a folder
    reconstruct  reconstruct the batch behind any gradient
    which        list the attacks that apply to your model, without attacking
    audit_client measure the leakage of your own model, and the cost of defenses
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.api import Run, Runs, load, run, sweep
    from fedsim.applicability.models import which
    from fedsim.audit import audit_client
    from fedsim.reconstruction import reconstruct

try:
    __version__ = version("fedsim-privacy")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = ["Run", "Runs", "__version__", "audit_client", "load", "reconstruct", "run", "sweep", "which"]

_HOMES = {
    **dict.fromkeys(("Run", "Runs", "load", "run", "sweep"), "fedsim.api"),
    "audit_client": "fedsim.audit.client_audit",
    "reconstruct": "fedsim.reconstruction",
    "which": "fedsim.applicability.models",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `import fedsim` alone does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
