"""`fedsim show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import command, say, screen
from fedsim.core.errors import FedsimError
from fedsim.core.registry.method import TIERED, Tier

if TYPE_CHECKING:
    from fedsim.cli.pages import Page
    from fedsim.core import registry


_TIERS: dict[Tier, str] = {
    "core": "core, which audits and auto try",
    "baseline": "baseline, a published method for comparison; audits and auto never try it",
    "research": "research, for narrow conditions; audits and auto try it where they hold",
}


@command(epilog="Example: fedsim show dropout-inversion")
def show(
    name: Annotated[str, typer.Argument(help="a method, as `fedsim list` names it, or a word of the glossary")],
) -> None:
    """Show a method's description, paper and settings with their bounds, and a small scenario for an attack."""
    from fedsim.cli.pages import page_of
    from fedsim.core import registry
    from fedsim.core.glossary import TERMS

    word = next((word for word in TERMS if word.casefold() == name.casefold()), None)
    try:
        methods = registry.find_entries(name)
    except FedsimError:
        if word is None:
            raise
        say(f"{word}: {TERMS[word]}")
        return
    for method in methods:
        print_page(method, page_of(method))


def print_page(method: registry.Entry, page: Page) -> None:
    """Print the registry entry of a method, then the page from its import."""
    hook = f"{method.kind}, hook {method.hook}" if method.hook else method.kind
    say(f"{method.name} ({hook}): {method.summary}\n\n{page.doc}\n")
    for heading, text in _origin(method, page):
        say(f"{heading}: {text}")
    if method.extra:
        say(f"Needs the extra '{method.extra}': pip install 'fedsim-privacy[{method.extra}]'\n")
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "default", "expected", "meaning"):
        table.add_column(heading, overflow="fold")
    for row in page.settings:
        table.add_row(*map(Text, row))
    screen.print(table)
    if page.example:
        say(f"\nA small scenario in which it applies:\n\n{page.example}")


def _origin(method: registry.Entry, page: Page) -> list[tuple[str, str]]:
    """Return the headings and texts of a method's other names, papers and grants that are not empty."""
    origin = [
        ("Tier", _TIERS[method.tier] if method.kind in TIERED else ""),
        ("Also called", ", ".join(method.aliases)),
        ("Paper", method.origin),
        ("Related paper, of other authors", method.related),
        ("Needs the threat model to grant", ", ".join(page.grants)),
    ]
    return [(heading, text) for heading, text in origin if text]
