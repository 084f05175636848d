"""The schemas of docs/schemas are those of today's tables, and tell right policies from wrong ones."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.guard.site import policy

ROOT = Path(__file__).parents[1]


def schemas() -> Any:
    spec = importlib.util.spec_from_file_location("schemas_of_the_site", ROOT / "docs" / "schemas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_current_and_no_others_lie_beside_them() -> None:
    """After a change of a table: make schemas."""
    module = schemas()
    assert {path.name for path in module.FOLDER.iterdir()} == set(module.TABLES)
    for name, table in module.TABLES.items():
        assert (module.FOLDER / name).read_text(encoding="utf-8") == module.render(table), f"{name}: make schemas"


def judge(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "schemas" / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_policies_of_the_page_and_of_tests_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(subject.*?)```", page, re.DOTALL)
    accuracy = {"low": 0.0, "high": 1.0, "noise_multiplier": 2.0, "every": 10}
    rules = {"types": ["train", "evaluate"], "evaluate": "run"}
    for tables in (tomllib.loads(text), policy(tmp_path), policy(tmp_path, messages=rules, metrics={"a": accuracy})):
        assert list(judge("guard.schema.json").iter_errors(tables)) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"subject": ""}, ["subject"]),
        ({"budgett": {}}, []),
        ({"budget": {"epsilon": 51.0}}, ["budget", "epsilon"]),
        ({"budget": {"delta": 0.5}}, ["budget", "delta"]),
        ({"apps": {"sha256": ["abc"]}}, ["apps", "sha256"]),
        ({"apps": {"isolation": "some"}}, ["apps", "isolation"]),
        ({"defenses": [{"clip": 1.0}]}, ["defenses", 0]),
        ({"messages": {"evaluate": "yes"}}, ["messages", "evaluate"]),
        ({"metrics": {"accuracy": {"low": 0.0, "high": 1.0}}}, ["metrics", "accuracy"]),
    ],
    ids=str,
)
def test_a_mistake_in_a_policy_is_found_at_its_place(tmp_path: Path, changes: dict[str, Any], place: list[Any]) -> None:
    (error,) = judge("guard.schema.json").iter_errors(policy(tmp_path, **changes))
    assert list(error.absolute_path) == place


@pytest.mark.parametrize(
    ("table", "is_right"),
    [
        ({}, True),
        ({"max_recovered": 0.05, "undecided": "pass", "findings": {"auc": 0.6}}, True),
        ({"max_recovered": 1.5}, False),
        ({"max_recoverd": 0.5}, False),
        ({"undecided": "maybe"}, False),
    ],
    ids=str,
)
def test_policies_of_audits_are_told_apart(table: dict[str, Any], is_right: bool) -> None:
    assert judge("policy.schema.json").is_valid(table) is is_right
