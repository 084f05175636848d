"""Parts of a method's page that `fedsim show` reads from the imported class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedsim.core import registry
from fedsim.core.hooks import Attack
from fedsim.core.source import toml
from fedsim.core.types import GRANTS, Config
from fedsim.scenario.example import example_of


def read(method: registry.Method) -> tuple[str, list[str], list[tuple[str, str, str, str]], str]:
    """Return docstring, grants, settings and example of a method that was imported: the fields of its `Page`."""
    tables = example_of(method)
    return method.doc, _grants(method), _settings(method), toml(tables) if tables else ""


def _grants(method: registry.Method) -> list[str]:
    attack = method.derived_from(Attack)
    return [] if attack is None else [f"{name} ({GRANTS[name].assumption_name})" for name in sorted(attack.needs)]


def _settings(method: registry.Method) -> list[tuple[str, str, str, str]]:
    rows: list[tuple[str, str, str, str]] = []
    properties = method.config.model_json_schema().get("properties", {})
    for name, field in method.config.model_fields.items():
        default = "required" if field.is_required() else _format_default(field.get_default(call_default_factory=True))
        rows.append((name, default, _accepted_values(properties.get(name, {})), field.description or ""))
    return rows


def _format_default(value: Any) -> str:
    """Return a default as JSON, with tables in the form of a scenario file."""
    return json.dumps(
        value, default=lambda part: part.model_dump(mode="json") if isinstance(part, Config) else str(part)
    )


def _accepted_values(schema: Mapping[str, Any]) -> str:
    """Return the values that a JSON schema accepts, for a table cell, without null (the default)."""
    if "enum" in schema:
        return f"one of {schema['enum']}"
    if "const" in schema:
        return f"'{schema['const']}'"
    if "$ref" in schema:
        return "table"
    if "anyOf" in schema:
        return " or ".join(_accepted_values(part) for part in schema["anyOf"] if part.get("type") != "null")
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if isinstance(schema.get(key), (int, float))]
    return " ".join([str(schema.get("type", "")), *limits]).strip()
