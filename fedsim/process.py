"""Settings of a worker process. `prepare` must run before torch or flwr is imported.

Spinning OpenMP threads and page-faulting allocators cost small models half their time; Flower would post usage
data and ask for updates.
"""

from __future__ import annotations

import ctypes
import os

ENVIRONMENT = {  # what `prepare` sets
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "OMP_NUM_THREADS": "1",
    "FLWR_LOG_LEVEL": "WARNING",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
_GLIBC_TRIM_THRESHOLD = -1
_GLIBC_MMAP_THRESHOLD = -3
_KEEP = 1 << 30


def prepare() -> None:
    """Set environment and allocator; what the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        mallopt = None
    if mallopt is not None:
        mallopt(_GLIBC_MMAP_THRESHOLD, _KEEP)
        mallopt(_GLIBC_TRIM_THRESHOLD, _KEEP)
