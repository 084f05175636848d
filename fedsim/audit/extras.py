"""Lookup of the fedsim extra that installs a package."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

_LINE = re.compile(r"([\w.-]+).*\bextra == ['\"]([\w-]+)['\"]")
_ALL = "dev"  # contains all other extras


def extra_of(package: str) -> str:
    """Return the extra that installs a package, preferably the extra of the same name; empty if none does."""
    try:
        lines = requires("fedsim-privacy") or []
    except PackageNotFoundError:
        return ""
    brought = (match.groups() for match in map(_LINE.match, lines) if match)
    extras = [extra for name, extra in brought if name == package and extra != _ALL]
    return package if package in extras else next(iter(extras), "")
