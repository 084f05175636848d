"""Finished parts of an interrupted recording: a file per setting and question, kept until the page is written."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

import fedsim
from fedsim.demo.jobs import Job
from fedsim.record.atomic_files import write_atomic

PartT = TypeVar("PartT")


class KeptParts(Generic[PartT]):
    """A folder of finished parts. A part belongs to its function, all of its arguments, and the version of fedsim."""

    def __init__(self, folder: Path, kind: TypeAdapter[PartT]) -> None:
        self.folder = folder
        self.kind = kind

    def read(self, job: Job) -> tuple[PartT] | None:
        """Return the result of a job in a tuple, or None where it is not kept or cannot be read."""
        try:
            return (self.kind.validate_json(self._file(job).read_bytes()),)
        except (OSError, ValidationError):
            return None

    def write(self, job: Job, part: PartT) -> None:
        """Keep the result of a job.

        Raises:
            FedsimError: it cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        write_atomic(self._file(job), self.kind.dump_json(part))

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, job: Job) -> Path:
        function, arguments = job
        key = to_json([fedsim.__version__, function.__qualname__, *arguments])
        return self.folder / f"{hashlib.sha256(key).hexdigest()}.json"
