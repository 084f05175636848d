"""Access of an isolated attack's process to this machine: environment variables, and places in the file system."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from fedsim.core import process
from fedsim.core.nets import checkpoints
from fedsim.core.registry import index
from fedsim.processes.code_files import code_paths, standard_library, system_libraries
from fedsim.processes.landlock import Places

_VARIABLES = frozenset(
    ("PATH", "HOME", "LANG", "TZ", "FEDSIM_CACHE", "LD_LIBRARY_PATH", "PYTHONHASHSEED", *process.ENVIRONMENT)
)
_OF_ARITHMETIC = (
    "LC_",
    "OMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "ATEN_",
    "DNNL_",
    "ONEDNN_",
    "CUDA_",
    "CUBLAS_",
    "PYTORCH_",
)
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_MORE_LIBRARIES = ("/usr/local/cuda", "/etc/ld.so.cache")
_FACTS = (  # about the processor and this process
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/driver/nvidia", "/sys/devices/system"),
    *("/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom", "/dev/random"),
)


def environment() -> dict[str, str]:
    """Return the variables of an attack's process: where Python and fedsim look, and how numbers are computed."""
    kept = {name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_OF_ARITHMETIC)}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def places() -> Places:
    """Return the readable places of an attack's process: Python, installed packages, and modules imported here.

    It can read all of fedsim's own methods, since the needed methods are known only at run time. Data sets inside
    packages are left out, since they contain the ground truth. File names can still be listed.
    """
    installed = _installed_paths()
    imported = [
        [place for place in module if not any(map(place.is_relative_to, installed))] for module in _imported_paths()
    ]
    folders = {*installed, *(place for module in imported for place in module), checkpoints.cache().resolve()}
    readable = {
        *_MORE_LIBRARIES,
        *_FACTS,
        *_python(),
        *(path for folder in folders for path in _code(folder, folder in installed)),
    }
    parents = (
        str(module[0].parent) for module in imported if module
    )  # further folders of a package are not found by name
    devices = ["/dev/null", *map(str, sorted(Path("/dev").glob("nvidia*")))]
    return Places(sorted(readable), sorted({*parents, *map(str, installed)}), devices)


def _code(place: Path, is_installed: bool) -> tuple[str, ...]:
    if not place.is_dir():
        return (str(place),)
    return _installed_code(place) if is_installed else code_paths(place)


_installed_code = lru_cache(code_paths)  # tens of thousands of files, the same for every attack of a run


def _installed_paths() -> set[Path]:
    paths = sysconfig.get_paths()
    named = {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    return {Path(path).resolve() for path in (paths["purelib"], paths["platlib"], *named)}


def _python() -> Iterator[str]:
    """Yield the places of Python's own modules and of shared libraries."""
    for folder in {
        Path(path).resolve()
        for path in (*_LIBRARIES, *(os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")))
    }:
        yield from system_libraries(folder)
    for name in ("stdlib", "platstdlib"):
        yield from standard_library(Path(sysconfig.get_path(name)).resolve())
    yield from (entry for entry in sys.path if entry.endswith(".zip"))


def _imported_paths() -> Iterator[list[Path]]:
    """Yield the locations of each package or module that this process has imported, and of package metadata."""
    for entry in sys.path:
        yield from (
            [metadata.resolve()] for kind in ("dist-info", "egg-info") for metadata in Path(entry).glob(f"*.{kind}")
        )
    yield from ([index.HOME / name] for name in index.BESIDE)
    for name, module in list(sys.modules.items()):
        if "." in name or name in ("__main__", "__mp_main__"):
            continue
        file: str | None = getattr(module, "__file__", None)
        folders: Iterable[str] = getattr(module, "__path__", [file] if file is not None else [])
        yield [Path(folder).resolve() for folder in folders]
