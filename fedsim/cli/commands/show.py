"""`fedsim show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import command, say, screen
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.core import registry


@command(epilog="Example: fedsim show dropout-inversion")
def show(
    name: Annotated[str, typer.Argument(help="a method, as `fedsim list` names it, or a word of the glossary")],
) -> None:
    """Show what a method does, its paper, its settings with their bounds, and a small scenario for an attack."""
    from fedsim.core import registry
    from fedsim.core.glossary import TERMS

    word = next((word for word in TERMS if word.casefold() == name.casefold()), None)
    try:
        methods = registry.find(name)
    except FedsimError:
        if word is None:
            raise
        say(f"{word}: {TERMS[word]}")
        return
    for method in methods:
        where = f"{method.kind}, hook {method.hook}" if method.hook else method.kind
        say(f"{method.name} ({where}): {method.summary}\n\n{method.doc}\n")
        for heading, text in _origin(method):
            say(f"{heading}: {text}")
        if method.extra:
            say(f"Needs the extra '{method.extra}': pip install 'fedsim-privacy[{method.extra}]'\n")
        table = Table(box=None, pad_edge=False)
        for heading in ("setting", "default", "expected", "meaning"):
            table.add_column(heading, overflow="fold")
        for row in _settings(method):
            table.add_row(*map(Text, row))
        screen.print(table)
        _show_example(method)


def _show_example(method: registry.Method) -> None:
    from fedsim.core.source import toml
    from fedsim.scenario.example import example_of

    tables = example_of(method)
    if tables is not None:
        say(f"\nA small scenario in which it applies:\n\n{toml(tables)}")


def _origin(method: registry.Method) -> list[tuple[str, str]]:
    """Other names and papers of a method, those that there are."""
    origin = [
        ("Also called", ", ".join(method.aliases)),
        ("Paper", method.origin),
        ("Related paper, of other authors", method.related),
        ("Needs the threat model to grant", ", ".join(_grants(method))),
    ]
    return [(heading, text) for heading, text in origin if text]


def _grants(method: registry.Method) -> list[str]:
    """What an attack must be granted: the name in a scenario, and what it stands for."""
    from fedsim.core.hooks import Attack
    from fedsim.core.types import GRANTS

    attack = method.derived_from(Attack)
    return [] if attack is None else [f"{name} ({GRANTS[name].called})" for name in sorted(attack.needs)]


def _settings(method: registry.Method) -> list[tuple[str, str, str, str]]:
    rows: list[tuple[str, str, str, str]] = []
    properties = method.config.model_json_schema().get("properties", {})
    for name, field in method.config.model_fields.items():
        default = "required" if field.is_required() else _written(field.get_default(call_default_factory=True))
        rows.append((name, default, _expected(properties.get(name, {})), field.description or ""))
    return rows


def _written(value: Any) -> str:
    """Return a default as JSON, tables as they stand in a scenario."""
    from fedsim.core.types import Config

    return json.dumps(
        value, default=lambda part: part.model_dump(mode="json") if isinstance(part, Config) else str(part)
    )


def _expected(schema: dict[str, object]) -> str:
    if "enum" in schema:
        return f"one of {schema['enum']}"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if isinstance(schema.get(key), (int, float))]
    return " ".join([str(schema.get("type", "")), *limits]).strip()
