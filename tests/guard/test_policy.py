"""A policy is read whole, and a mistake in it is named by file and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.guard.policy import read_policy
from tests.guard.site import policy

PAGE = Path(__file__).parents[2] / "docs" / "guard.md"


def mistake(folder: Path, **changes: Any) -> str:
    policy(folder, **changes)
    with pytest.raises(ScenarioError) as caught:
        read_policy(folder / "guard.toml")
    return str(caught.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    policy(tmp_path, apps={"writable": ["/elsewhere"]})
    rules = read_policy(tmp_path / "guard.toml")
    assert (rules.ledger, rules.node.secret) == (tmp_path / "ledger.jsonl", tmp_path / "secret")
    assert rules.apps.readable == (tmp_path / "data.txt",)
    assert rules.apps.writable == (Path("/elsewhere"),)


def test_what_is_not_said_is_the_safe_choice(tmp_path: Path) -> None:
    policy(tmp_path)
    rules = read_policy(tmp_path / "guard.toml")
    assert rules.server_check
    assert rules.apps.isolation == "sandbox"
    assert (rules.messages.types, rules.messages.failed) == (("train",), "noise")


def test_the_policy_of_the_page_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "guard.toml").write_text(text)
    assert read_policy(tmp_path / "guard.toml").defenses[0].name == "local-dp"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": {"epsilom": 3.0}}, "budget.epsilom: there is no such key. Did you mean 'epsilon'?"),
        ({"budget": {"epsilon": -1.0}}, "budget.epsilon: input should be greater than 0, got -1.0"),
        ({"budget": {"delta": 1.0}}, "budget.delta: input should be less than 1, got 1.0"),
        ({"subject": ""}, "subject: "),
        ({"node": {"address": "10.0.0.1:19300"}}, "node.address: "),
        ({"apps": {"sha256": ["abc"]}}, "apps.sha256"),
        ({"apps": {"isolation": "sandbx"}}, "apps.isolation: input should be 'sandbox' or 'none', got 'sandbx'. Did"),
        ({"apps": {"readable": ["."]}}, "apps.readable: {folder} holds the file of 'ledger', which no app may reach"),
        ({"apps": {"writable": ["ledger.key"]}}, "apps.writable: {folder}/ledger.key holds the file of 'key'"),
        ({"messages": {"types": ["evaluate"]}}, "messages.types: 'evaluate' is no message of training"),
        ({"messages": {"metrics": {"num-examples": 3.0}}}, "messages.metrics: 'num-examples' is 1 for every site"),
        ({"defenses": []}, "defenses: "),
        ({"defenses": [{"name": "local-pd"}]}, "defenses.0.name: there is no defense 'local-pd'. Did you mean 'local-"),
        ({"defenses": [{"name": "local-dp", "clipp": 1.0}]}, "defenses.0.clipp: there is no such key. Did you"),
        ({"defenses": [{"name": "local-dp", "noise_multiplier": 0.0}]}, "defenses.0: defense 'local-dp': without no"),
        ({"defenses": [{"name": "dp-sgd"}]}, "defenses.0: defense 'dp-sgd' works inside local training"),
        ({"defenses": [{"name": "clipping", "applies": "per_update"}]}, "defenses: none of them is private"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_names_file_and_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    said = mistake(tmp_path, **changes)
    assert f"{tmp_path / 'guard.toml'}: {words.format(folder=tmp_path)}" in said


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="there is no policy .*guard.toml"):
        read_policy(tmp_path / "guard.toml")
