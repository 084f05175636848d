"""`fedsim new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsim.cli.commands._console import app, say


@app.command(epilog="Example: fedsim new attack my-attack")
def new(
    kind: Annotated[Literal["attack", "defense", "component"], typer.Argument(help="what to add")],
    name: Annotated[str, typer.Argument(help="lower-case words joined by hyphens")],
) -> None:
    """Write the one file of a new method, ready to run and to change."""
    from fedsim.cli.templates import write_new

    path = write_new(kind, name, Path.cwd())
    say(f"Wrote {path.relative_to(Path.cwd())}. It is listed already: fedsim show {name}")
