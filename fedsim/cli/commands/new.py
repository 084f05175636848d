"""`fedsim new`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsim.cli.commands._console import command, say


@command(epilog="Example: fedsim new attack my-attack --family closed_form")
def new(
    kind: Annotated[
        Literal["attack", "defense", "component", "metric", "question", "task"], typer.Argument(help="what to add")
    ],
    name: Annotated[str, typer.Argument(help="lower-case words joined by hyphens")],
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            "--hook",
            help="folder of the method: the family of an attack, the place of a defense, the hook of a component; "
            "gradient_matching, norm or augment when absent; other kinds have none",
        ),
    ] = None,
    template: Annotated[
        Literal["matching", "closed-form", "text", "malicious"] | None,
        typer.Option(
            help="kind of an attack: search for inputs, solve for them, read text, or change the model that clients "
            "get; absent: that of its family"
        ),
    ] = None,
) -> None:
    """Write a new method, ready to run and to change, and a test of it.

    In a checkout the file goes to attacks/FAMILY, defenses/FAMILY, fedsim/components/FAMILY, fedsim/metrics,
    fedsim/questions or fedsim/tasks, and its test to the same place in tests/; elsewhere a package is written around
    both.
    """
    from fedsim.cli.templates import families, is_checkout, registered_name, usual_family, write_new

    method, test = (path.relative_to(Path.cwd()) for path in write_new(kind, name, Path.cwd(), family, template))
    if is_checkout(Path.cwd()):
        say(f"Wrote {method} and {test}. It is listed already: fedsim show {registered_name(kind, name)}")
        say(_test_command(test))
    else:
        say(f"Wrote {method}, {test} and the package around them. Install it, and it is listed:")
        say(f"  pip install --editable ./{method.parent}\n  fedsim show {registered_name(kind, name)}")
        say(_test_command(method.parent))
    alternatives = [family.name for family in families(kind) if family.name != usual_family(kind, template)]
    if family is None and alternatives:
        say(f"Other families, for --family: {', '.join(alternatives)}")


def _test_command(path: Path) -> str:
    command = f"python -m pytest {path}"
    if find_spec("pytest") is None:
        return f"Its test needs pytest, which is not installed: pip install pytest, then {command}"
    return f"Its test passes: {command}"
