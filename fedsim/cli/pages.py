"""What only the import of a method tells, kept of fedsim's own, so that `fedsim show` waits for torch once.

The index is made when a method is first shown, and again when one of fedsim's files has changed since.
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
    """What only the import of a method tells.

    Attributes:
        doc: its docstring.
        grants: what an attack must be granted: the name in a scenario, and what it stands for.
        settings: name, default, expected values and meaning of each.
        example: of an attack, a small scenario in TOML; empty for others.
    """

    doc: str
    grants: Sequence[str]
    settings: Sequence[Sequence[str]]
    example: str


def page_of(entry: registry.Entry) -> Page:
    """Return the page of a method; one of fedsim's own comes out of the index and is not imported."""
    is_of_fedsim = entry is index.entries_of(entry.kind).get(entry.name)
    kept = _kept().get(_key(entry)) if is_of_fedsim else None
    return Page(**kept) if kept else _read(entry)


def _read(entry: registry.Entry) -> Page:
    from fedsim.cli.imported import read  # noqa: PLC0415 - what is kept waits for no torch

    return read(registry.get(entry.kind, entry.name))


def _kept() -> dict[str, Any]:
    """Return the pages of all of fedsim's own methods, made anew where files have changed."""
    path, state = checkpoints.cache() / _FILE, _state()
    with suppress(OSError, ValueError, LookupError, TypeError):  # it is not there, or somebody else's
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return kept["pages"]
    pages = _made()
    with suppress(OSError):  # nobody needs the index
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({"state": state, "pages": pages}), encoding="utf-8")
        new.replace(path)
    return pages


def _made() -> dict[str, Any]:
    pages: dict[str, Any] = {}
    for entry in (entry for kind in registry.KINDS for entry in index.entries_of(kind).values()):
        with suppress(Exception):  # who names it hears why it cannot be imported
            pages[_key(entry)] = asdict(_read(entry))
    return pages


def _key(entry: registry.Entry) -> str:
    return f"{entry.kind} {entry.name}"


def _state() -> str:
    """Return a digest of what the pages follow from: fedsim's files, by their times, and Python."""
    digest = hashlib.sha256(sys.version.encode())
    for package in ("fedsim", *index.BESIDE):
        for folder, folders, files in os.walk(index.HOME / package):
            folders.sort()
            for name in sorted(name for name in files if name.endswith(".py")):
                path = Path(folder, name)
                digest.update(f"{path} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()
