"""Cache of the parts of method pages that need the method's import, so that `fedsim show` imports torch only once.

The cache covers fedsim's own methods. It is written when a method is first shown, and again after one of fedsim's
files has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.core import registry
from fedsim.core.nets import checkpoints
from fedsim.core.registry import index

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE = "pages.json"


@dataclass(frozen=True)
class Page:
    """Parts of a method's page that only the import of the method yields.

    Attributes:
        doc: its docstring.
        grants: grants that an attack requires: the name in a scenario, and its meaning.
        settings: name, default, expected values and meaning of each.
        example: of an attack, a small scenario in TOML; empty for others.
    """

    doc: str
    grants: Sequence[str]
    settings: Sequence[Sequence[str]]
    example: str


def page_of(entry: registry.Entry) -> Page:
    """Return the page of a method; the page of a method of fedsim comes from the cache, without an import."""
    is_of_fedsim = entry is index.entry_of(entry.kind, entry.name)
    kept = _load_pages().get(_key(entry)) if is_of_fedsim else None
    return Page(**kept) if kept else _read(entry)


def _read(entry: registry.Entry) -> Page:
    from fedsim.cli.imported import read  # noqa: PLC0415 - cached pages need no torch

    return Page(*read(registry.get(entry.kind, entry.name)))


def _load_pages() -> dict[str, Any]:
    """Return the cached pages of all of fedsim's methods; rebuild the cache if a file has changed."""
    path, state = checkpoints.cache() / _FILE, _state()
    with suppress(OSError, ValueError, LookupError, TypeError):  # missing, unreadable, or of another format
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return kept["pages"]
    pages = _build_pages()
    with suppress(OSError):  # the cache is optional
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({"state": state, "pages": pages}), encoding="utf-8")
        new.replace(path)
    return pages


def _build_pages() -> dict[str, Any]:
    pages: dict[str, Any] = {}
    for entry in (entry for kind in registry.KINDS for entry in index.entries_of(kind).values()):
        with suppress(Exception):  # `fedsim show NAME` reports why the import fails
            pages[_key(entry)] = asdict(_read(entry))
    return pages


def _key(entry: registry.Entry) -> str:
    return f"{entry.kind} {entry.name}"


def _state() -> str:
    """Return a digest of the paths and modification times of fedsim's files and of the Python version."""
    digest = hashlib.sha256(sys.version.encode())
    for package in ("fedsim", *index.BESIDE):
        for folder, folders, files in os.walk(index.HOME / package):
            folders.sort()
            for name in sorted(name for name in files if name.endswith(".py")):
                path = Path(folder, name)
                digest.update(f"{path} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()
