"""A policy is read whole, and a mistake in it is named by file and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import fedsim
from fedsim.core.errors import ScenarioError
from fedsim.guard.explanation import cost_of_run, permissions, refusals
from fedsim.guard.policy import GuardPolicy, read_policy
from fedsim.privacy.accounting import Spent
from tests.guard.site import policy

INSTALLED = Path(fedsim.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "guard.md"

RUN = {"types": ["train", "evaluate"], "evaluate": "run"}
ACCURACY = {"low": 0.0, "high": 1.0, "noise_multiplier": 2.0}


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
    assert (rules.messages.types, rules.messages.on_app_failure) == (("train",), "noise")


def documented(folder: Path, addition: str = "") -> GuardPolicy:
    """Return the first policy of the page, with tables of another block in place of its own."""
    first, *_ = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "guard.toml").write_text(tomli_w.dumps({**tomllib.loads(first), **tomllib.loads(addition)}))
    return read_policy(folder / "guard.toml")


def test_the_policies_of_the_page_can_be_read(tmp_path: Path) -> None:
    _, *additions = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert documented(tmp_path).defenses[0].name == "local-dp"
    declining, running = (documented(tmp_path, addition) for addition in additions)
    assert (declining.messages.evaluate, running.messages.evaluate) == ("decline-silently", "run")
    assert list(running.metrics) == ["accuracy"]


def test_what_the_page_says_of_its_policy_is_what_check_prints(tmp_path: Path) -> None:
    policy = documented(tmp_path)
    told = [*permissions(policy), *refusals(policy), cost_of_run(policy, 10)]
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for sentence in told:
        assert " ".join(sentence.replace(str(tmp_path), "/home/guard").split()) in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": {"epsilom": 3.0}}, "budget.epsilom: there is no such key. Did you mean 'epsilon'?"),
        ({"budget": {"epsilon": -1.0}}, "budget.epsilon: input should be greater than 0, got -1.0"),
        ({"budget": {"epsilon": 50.1}}, "budget.epsilon: 50.1 gives no protection, expected at most 50: "),
        ({"budget": {"epsilon": 1e9}}, "budget.epsilon: 1e+09 gives no protection, expected at most 50: "),
        ({"budget": {"epsilon": float("nan")}}, "budget.epsilon: "),
        ({"budget": {"delta": 0.00101}}, "budget.delta: 0.00101 is too large, expected at most 0.001: "),
        ({"budget": {"delta": 0.5}}, "budget.delta: 0.5 is too large"),
        ({"budget": {"delta": float("nan")}}, "budget.delta: "),
        ({"subject": ""}, "subject: "),
        ({"node": {"address": "10.0.0.1:19300"}}, "node.address: "),
        ({"apps": {"sha256": ["abc"]}}, "apps.sha256"),
        ({"apps": {"isolation": "sandbx"}}, "apps.isolation: input should be 'sandbox' or 'none', got 'sandbx'. Did"),
        ({"apps": {"readable": ["."]}}, "apps.readable: {folder} holds the file of 'ledger', which no app may reach"),
        ({"apps": {"writable": ["ledger.key"]}}, "apps.writable: {folder}/ledger.key holds the file of 'key'"),
        ({"key": "ledger.jsonl"}, "key: {folder}/ledger.jsonl is the file of 'ledger' too"),
        ({"node": {"secret": "ledger.key"}}, "node.secret: {folder}/ledger.key is the file of 'key' too"),
        ({"apps": {"log": "ledger.jsonl"}}, "apps.log: {folder}/ledger.jsonl is the file of 'ledger' too"),
        ({"apps": {"log": "sub/../ledger.key"}}, "apps.log: {folder}/sub/../ledger.key is the file of 'key' too"),
        ({"apps": {"log": "guard.toml"}}, "apps.log: {folder}/guard.toml is the file of 'guard.toml' too"),
        ({"apps": {"log": "secret"}}, "apps.log: {folder}/secret is the file of 'node.secret' too"),
        ({"apps": {"log": "cache/log", "writable": ["cache"]}}, "apps.writable: {folder}/cache holds the file of 'app"),
        ({"apps": {"writable": ["guard.toml"]}}, "apps.writable: {folder}/guard.toml holds the file of 'guard.toml'"),
        ({"messages": {"types": ["query"]}}, "messages.types: 'query' is no message of training or evaluation"),
        ({"messages": {"evaluate": "run"}}, 'messages.evaluate: "run" needs "evaluate" in messages.types'),
        ({"messages": {"evaluate": "yes"}}, "messages.evaluate: input should be 'decline-silently' or"),
        ({"messages": RUN}, "metrics: an evaluation has no metric to send"),
        ({"metrics": {"accuracy": ACCURACY}}, 'metrics: only evaluations send them. Set evaluate = "run"'),
        ({"messages": RUN, "metrics": {"num-examples": ACCURACY}}, "metrics.num-examples: it is 1 for every site"),
        (
            {"messages": {**RUN, "metrics": {"accuracy": 0.0}}, "metrics": {"accuracy": ACCURACY}},
            "metrics.accuracy: messages.metrics has a constant of this name",
        ),
        ({"metrics": {"accuracy": {**ACCURACY, "low": 1.0}}}, "metrics.accuracy: low is 1 and high is 1, expected a"),
        ({"metrics": {"accuracy": {**ACCURACY, "high": float("inf")}}}, "metrics.accuracy.high: "),
        ({"metrics": {"accuracy": {**ACCURACY, "low": -1e308, "high": 1e308}}}, "metrics.accuracy: low is -1e+308 and"),
        ({"metrics": {"accuracy": {**ACCURACY, "noise_multiplier": 0.0}}}, "metrics.accuracy.noise_multiplier: "),
        ({"metrics": {"accuracy": {**ACCURACY, "every": 0}}}, "metrics.accuracy.every: "),
        ({"metrics": {"accuracy": {"low": 0.0, "high": 1.0}}}, "metrics.accuracy.noise_multiplier: this key is"),
        ({"messages": {"metrics": {"num-examples": 3.0}}}, "messages.metrics: 'num-examples' is 1 for every site"),
        ({"defenses": []}, "defenses: "),
        ({"defenses": [{"name": "local-pd"}]}, "defenses.0.name: there is no defense 'local-pd'. Did you mean 'local-"),
        ({"defenses": [{"name": "local-dp", "clipp": 1.0}]}, "defenses.0.clipp: there is no such key. Did you"),
        ({"defenses": [{"name": "local-dp", "noise_multiplier": 0.0}]}, "defenses.0: defense 'local-dp': without no"),
        ({"defenses": [{"name": "dp-sgd"}]}, "defenses.0: defense 'dp-sgd' works inside local training"),
        ({"defenses": [{"name": "clipping", "applies": "per_update"}]}, "defenses: none is private"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_names_file_and_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    said = mistake(tmp_path, **changes)
    assert f"{tmp_path / 'guard.toml'}: {words.format(folder=tmp_path)}" in said


def test_a_run_costs_its_trainings_and_the_metrics_that_are_due(tmp_path: Path) -> None:
    loss = {"low": 0.0, "high": 5.0, "noise_multiplier": 3.0, "every": 10}
    policy(tmp_path, messages=RUN, metrics={"accuracy": ACCURACY, "loss": loss})
    rules = read_policy(tmp_path / "guard.toml")
    assert rules.cost(25) == [Spent(2.0, 1.0, 25), Spent(2.0, 1.0, 25), Spent(3.0, 1.0, 2)]
    due = [[mechanism.steps for mechanism in rules.metric_mechanisms(number)] for number in range(1, 26)]
    assert [sum(steps) for steps in zip(*due, strict=True)] == [25, 2]
    assert (due[8], due[9], due[19]) == ([1, 0], [1, 1], [1, 1])


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no policy .*guard.toml"):
        read_policy(tmp_path / "guard.toml")


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_link_to_the_ledger_is_no_log(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    (tmp_path / "ledger.jsonl").touch()
    link(tmp_path / "log", tmp_path / "ledger.jsonl")
    assert "apps.log: " in mistake(tmp_path, apps={"log": "log"})


def test_budgets_at_the_limits_are_taken(tmp_path: Path) -> None:
    policy(tmp_path, budget={"epsilon": 50.0, "delta": 1e-3})
    rules = read_policy(tmp_path / "guard.toml")
    assert (rules.budget.epsilon, rules.budget.delta) == (50.0, 1e-3)


@pytest.mark.parametrize("place", [INSTALLED, INSTALLED / "guard", INSTALLED.parent, Path(pytest.__file__).parent])
def test_no_app_may_write_to_code_that_the_guard_runs(tmp_path: Path, place: Path) -> None:
    said = mistake(tmp_path, apps={"writable": [str(place)]})
    assert f"apps.writable: {place} holds code that this guard runs" in said


@pytest.mark.parametrize(
    ("key", "value", "link", "target"),
    [
        ("ledger", "cache/inner/ledger.jsonl", "cache/inner", "safe"),
        ("ledger", "alias/inner/ledger.jsonl", "cache/inner", "safe"),
        ("ledger", "outer/ledger.jsonl", "outer", "cache/inner"),
        ("key", "cache/key", "cache/key", "safe/key"),
        ("key", "outer", "outer", "cache/inner/key"),
    ],
)
def test_an_app_cannot_change_by_which_links_a_file_is_found(
    tmp_path: Path, key: str, value: str, link: str, target: str
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "safe").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "cache")
    (tmp_path / link).symlink_to(tmp_path / target)
    if target.startswith("cache"):
        (tmp_path / "cache" / "inner").symlink_to(tmp_path / "safe")
    said = mistake(tmp_path, **{key: value}, apps={"writable": ["cache"]})
    assert f"apps.writable: {tmp_path}/cache holds '{tmp_path}/cache/" in said
    assert f"by which '{key}' is found" in said


@pytest.mark.parametrize("value", ["link/ledger.jsonl", "cache/../safe/ledger.jsonl", "safe/ledger.jsonl"])
def test_links_that_no_app_can_change_are_taken(tmp_path: Path, value: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "safe").mkdir()
    (tmp_path / "link").symlink_to("safe")
    policy(tmp_path, ledger=value, apps={"writable": ["cache"]})
    assert read_policy(tmp_path / "guard.toml").ledger == tmp_path / value


def test_a_folder_beside_the_policy_is_no_code_although_python_looks_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    policy(tmp_path, apps={"writable": ["cache"]})
    assert read_policy(tmp_path / "guard.toml").apps.writable == (tmp_path / "cache",)
    assert "holds code" in mistake(tmp_path, apps={"writable": ["."]})


def test_an_app_may_read_code(tmp_path: Path) -> None:
    policy(tmp_path, apps={"readable": [str(INSTALLED)]})
    assert read_policy(tmp_path / "guard.toml").apps.readable == (INSTALLED,)
