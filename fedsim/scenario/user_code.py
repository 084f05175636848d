"""User code that a scenario names cannot end the process. Importing this module does not import torch."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fedsim.core.errors import FedsimError
from fedsim.core.hosting import SharedChange, Undo


@contextmanager
def forbid_exit(owner: str) -> Iterator[None]:
    """Raise an error if user code would end the process.

    `os._exit` leaves only an exit code, possibly 0, so it is replaced while the block runs.

    Raises:
        FedsimError: the code raised SystemExit or called `os._exit` in this process.
    """
    try:
        with _exit_patch.apply_change():
            yield
    except SystemExit as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        raise FedsimError(
            f"{owner} ended the process with exit code {error.code}{place}. Let it raise an exception instead."
        ) from error


def _raise_instead_of_leaving() -> Undo:
    owner, leave = os.getpid(), os._exit

    def left(code: int) -> NoReturn:
        if os.getpid() != owner:  # a child process that ends normally
            leave(code)
        raise SystemExit(code)

    def undo() -> None:
        os._exit = leave

    os._exit = left
    return undo


_exit_patch = SharedChange(_raise_instead_of_leaving)
