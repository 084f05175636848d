"""Descriptions of exceptions raised by user code."""

from __future__ import annotations

from fedsim.core.errors import FedsimError, describe_exception

_AS_TORCH_SAYS_IT = "allocate memory"


def reason(error: Exception) -> str:
    """Return the exception as a sentence without its full stop.

    Raises:
        MemoryError: the exception reports exhausted memory, so the audit cannot continue.
    """
    if isinstance(error, MemoryError) or _AS_TORCH_SAYS_IT in str(error):
        raise MemoryError from error
    return str(error) if isinstance(error, FedsimError) else describe_exception(error)
