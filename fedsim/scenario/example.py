"""Small example scenarios of attacks, for `fedsim show` and the contract tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.core.hooks import Attack, Tables
from fedsim.core.registry import Method
from fedsim.scenario.threat_tables import Threat

SMALL: Tables = {
    "seed": 3,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25},
    "federation": {"clients": 4, "batch_size": 1},
}
"""Defaults of tables that an attack's `example` does not set."""


def example_of(method: Method) -> dict[str, Any] | None:
    """Return the tables of a small scenario to which an attack applies; None for methods of other kinds."""
    attack = method.derived_from(Attack)
    if attack is None:
        return None
    tables = with_tables({"title": f"A small scenario for {method.name}", **SMALL}, attack.example)
    threat, settings = tables.get("threat", {}), tables.get("attacks", [{}])[0]
    if attack.crafts_model:
        tables["threat"] = {**threat, "server": "malicious"}
    missing = sorted(attack.needs - set(threat.get("knows", Threat().knows)))
    return {**tables, "attacks": [{"name": method.name, **({"also_knows": missing} if missing else {}), **settings}]}


def with_tables(scenario: Tables, tables: Tables) -> dict[str, Any]:
    """Return a scenario with tables merged by key; a table with a method's name replaces the old table."""
    joined = dict(scenario)
    for key, value in tables.items():
        is_whole = not isinstance(value, Mapping) or "name" in value
        joined[key] = value if is_whole else {**joined.get(key, {}), **value}
    return joined
