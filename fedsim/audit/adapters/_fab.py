"""Extraction of the archive that `flwr build` writes: a zip of sources."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from fedsim.core.errors import FedsimError, first_line

_MOST_BYTES = 100 << 20  # unpacked size; Flower allows 10 MiB packed
_MODE = 16  # bits to shift for the file mode in a zip entry


def unpack(archive: Path, folder: Path) -> None:
    """Extract the files of an archive into a folder; nothing in it is executed or unpickled.

    Raises:
        FedsimError: the archive cannot be read, is too large, or holds a link or a path outside the folder.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            _check(archive, packed.infolist())
            packed.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise FedsimError(
            f"cannot read {archive}: {first_line(error).rstrip('.')}. Build it again with `flwr build`."
        ) from error


def _check(archive: Path, files: list[zipfile.ZipInfo]) -> None:
    for file in files:
        path = PurePosixPath(file.filename.replace("\\", "/"))
        leaves = path.is_absolute() or ".." in path.parts or ":" in file.filename
        if leaves or stat.S_ISLNK(file.external_attr >> _MODE):
            raise FedsimError(
                f"{archive} holds '{file.filename}', a "
                f"{'path that leaves' if leaves else 'link, which may leave'} its folder. `flwr "
                "build` writes no such file: check its origin."
            )
    if sum(file.file_size for file in files) > _MOST_BYTES:
        raise FedsimError(f"{archive} unpacks to more than {_MOST_BYTES >> 20} MiB, expected the sources of an app.")
