"""`fedsim init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import ScenarioFile, command, say
from fedsim.core.errors import FedsimError
from fedsim.core.source import read_source, short_name

TEMPLATE = Path(__file__).parents[1] / "templates" / "scenario.toml"


@command(epilog="Example: fedsim init && fedsim run scenario.toml")
def init(
    scenario: ScenarioFile = Path("quickstart"),
    to: Annotated[Path, typer.Option(help="folder that the files are written into")] = Path(),
) -> None:
    """Write a scenario to run, and a template that explains every key, to change."""
    for path in write_start(scenario, to):
        say(f"Wrote {path}. Run it with: fedsim run {path}")


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
