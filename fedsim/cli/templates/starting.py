"""The files of `fedsim init`: a scenario that exists, and a template of one's own."""

from __future__ import annotations

from pathlib import Path

from fedsim.core.errors import FedsimError
from fedsim.core.source import read_source, short_name

TEMPLATE = Path(__file__).parent / "scenario.toml"


def write_start(scenario: Path, folder: Path) -> list[Path]:
    """Copy a scenario, renamed without its number, and the template into a folder; return both paths.

    Raises:
        FedsimError: a file exists already; nothing was written.
    """
    files = {
        folder / f"{short_name(scenario.stem)}.toml": read_source(scenario),
        folder / TEMPLATE.name: TEMPLATE.read_bytes(),
    }
    present = [path for path in files if path.exists()]
    if present:
        raise FedsimError(f"{present[0]} exists already. Move it away, or choose another folder with --to.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        path.write_bytes(content)
    return list(files)
