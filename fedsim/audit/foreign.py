"""What to say about an exception that somebody else's code raised."""

from __future__ import annotations

from fedsim.core.errors import FedsimError, told

_AS_TORCH_SAYS_IT = "allocate memory"


def reason(error: Exception) -> str:
    """Return one sentence without its full stop.

    Raises:
        MemoryError: that is what it was; there is no point in going on.
    """
    if isinstance(error, MemoryError) or _AS_TORCH_SAYS_IT in str(error):
        raise MemoryError from error
    return str(error) if isinstance(error, FedsimError) else told(error)
