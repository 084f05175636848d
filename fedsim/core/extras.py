"""Which extra of fedsim brings a package."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

_LINE = re.compile(r"([\w.-]+).*\bextra == ['\"]([\w-]+)['\"]")
_ALL = "dev"  # brings all others


def extra_of(package: str) -> str:
    """Return the extra that brings a package, of several the one with its name; empty where none does."""
    try:
        lines = requires("fedsim-privacy") or []
    except PackageNotFoundError:
        return ""
    brought = (match.groups() for match in map(_LINE.match, lines) if match)
    extras = [extra for name, extra in brought if name == package and extra != _ALL]
    return package if package in extras else next(iter(extras), "")
