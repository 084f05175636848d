"""`fedsim new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsim.cli.commands._console import command, say


@command(epilog="Example: fedsim new attack my-attack --family closed_form")
def new(
    kind: Annotated[Literal["attack", "defense", "component"], typer.Argument(help="what to add")],
    name: Annotated[str, typer.Argument(help="lower-case words joined by hyphens")],
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            "--hook",
            help="folder of the method: the family of an attack, the place of a defense, the hook of a component; "
            "gradient_matching, norm or augment when absent",
        ),
    ] = None,
    like: Annotated[
        Literal["matching", "closed-form", "text"] | None,
        typer.Option(
            help="kind of an attack: search for inputs, solve for them, or read text; absent: that of its family"
        ),
    ] = None,
) -> None:
    """Write the file of a new method, ready to run and to change; outside of a checkout a package around it."""
    from fedsim.cli.templates import families, is_checkout, usual_family, write_new

    path = write_new(kind, name, Path.cwd(), family, like).relative_to(Path.cwd())
    if is_checkout(Path.cwd()):
        say(f"Wrote {path}. It is listed already: fedsim show {name}")
    else:
        say(f"Wrote {path} and the package around it. Install it, and it is listed:")
        say(f"  pip install --editable ./{path.parent}\n  fedsim show {name}")
    if family is None:
        others = [one.name for one in families(kind) if one.name != usual_family(kind, like)]
        say(f"Other families, for --family: {', '.join(others)}")
