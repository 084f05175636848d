"""A code that a phone's camera reads, drawn in a terminal."""

from __future__ import annotations

import io

from fedsim.core.errors import MissingExtra


def code_of(address: str) -> str:
    """Return the code as lines of block characters.

    Raises:
        MissingExtra: segno is not installed.
    """
    try:
        import segno  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("segno, which draws the code to scan,", "pip install 'fedsim-privacy[demo]'") from None
    lines = io.StringIO()
    segno.make(address, micro=False).terminal(lines, border=2, compact=True)
    return lines.getvalue()
