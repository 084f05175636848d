"""`fedsim init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.commands._console import ScenarioFile, command, say


@command(epilog="Example: fedsim init && fedsim run scenario.toml")
def init(
    scenario: ScenarioFile = Path("quickstart"),
    to: Annotated[Path, typer.Option(help="folder that the files are written into")] = Path(),
) -> None:
    """Write a scenario to run, and a template that explains every key, to change."""
    from fedsim.cli.templates.starting import write_start

    for path in write_start(scenario, to):
        say(f"Wrote {path}. Run it with: fedsim run {path}")
