"""A federation that diverges says so and stops; the defaults do not diverge."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fedsim
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import HookContext
from fedsim.core.types import Update
from fedsim.experiment.runner import train
from fedsim.federation.journal import ServerLog
from fedsim.scenario import Scenario, arms, parse
from fedsim.scenario import world as worlds
from tests.experiment.running import Build

SUM = {"view": "sum"}
CHANCE = 0.1  # ten classes


def run(scenario: Scenario) -> ServerLog:
    return train(worlds.build(scenario), lambda _record: None)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"federation": {"engine": "vectorized"}},
        {"threat": SUM, "secure_aggregation": {"mode": "ideal"}},
        {"threat": SUM, "secure_aggregation": {"mode": "masked"}},
    ],
)
def test_steps_that_are_too_long_end_the_federation_with_a_rate_to_try(scenario: Build, tables: dict[str, Any]) -> None:
    federation = {"clients": 4, "rounds": 9, **tables.get("federation", {})}
    optimizer = {"name": "sgd", "learning_rate": 1e30}
    built = scenario(**{**tables, "federation": federation, "aggregation": {"optimizer": optimizer}})
    expected = r"round [23]: no finite update of 4; aggregation.optimizer.learning_rate is 1e\+30, try 1e\+29\."
    with pytest.raises(FedsimError, match=expected):
        run(built)


def test_local_steps_that_are_too_long_are_those_of_the_clients(scenario: Build) -> None:
    federation = {
        "clients": 3, "rounds": 3, "algorithm": "fedavg", "local_steps": 4,
        "optimizer": {"name": "sgd", "learning_rate": 1e30},
    }  # fmt: skip
    with pytest.raises(FedsimError, match=r"round 1: no finite update of 3; federation.optimizer.learning_rate is"):
        run(scenario(federation=federation))


def test_updates_that_were_never_finite_blame_no_rate(
    scenario: Build, counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(_self: Any, update: Update, _here: HookContext) -> Update:
        return Update(update.kind, {n: t * torch.nan for n, t in update.tensors.items()}, {}, update.examples, 0.0)

    monkeypatch.setattr(counting, "on_upload", spoil)
    with pytest.raises(FedsimError, match="round 1: no finite update of 4; no step was trained yet"):
        run(scenario(defenses=[{"name": "counting"}]))


def test_the_arm_that_diverged_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    tables = {
        "title": "t", "data": {"name": "digits"}, "model": {"name": "mlp", "width": 8},
        "federation": {"clients": 2, "rounds": 4},
        "arms": {"aggregation.optimizer.learning_rate": [0.1, 1e30]},
    }  # fmt: skip
    record = fedsim.run(tables, out=tmp_path).record
    assert record.status == "finished"
    (failure,) = record.failures
    assert failure.subject == "arm learning_rate 1e+30"
    assert re.match(r"round [23]: no finite update of 2", failure.reason)
    assert [arm.name for arm in record.arms] == ["learning_rate 0.1"]


def test_the_servers_rate_follows_what_clients_send() -> None:
    base = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp"}}

    def rates(**tables: Any) -> list[float]:
        return [arm.aggregation.optimizer.settings["learning_rate"] for _, arm in arms(parse({**base, **tables}, "s"))]

    either = {"federation.algorithm": ["fedsgd", "fedavg"]}
    assert rates() == [0.1]
    assert rates(federation={"algorithm": "fedavg"}) == [1.0]
    assert rates(arms=either) == [0.1, 1.0]
    assert rates(arms=either, aggregation={"optimizer": {"name": "sgd", "momentum": 0.5}}) == [0.1, 1.0]
    assert rates(arms=either, aggregation={"optimizer": {"name": "sgd", "learning_rate": 0.3}}) == [0.3, 0.3]


@pytest.mark.parametrize(
    ("data", "rounds"),
    [
        ("digits", 40),
        pytest.param("mnist5k", 40, marks=pytest.mark.slow),
        pytest.param("foolbox-samples", 20, marks=pytest.mark.slow),
    ],
)
def test_the_defaults_of_fedsgd_train(data: str, rounds: int, tmp_path: Path) -> None:
    tables = {
        "title": "t", "data": {"name": data}, "model": {"name": "mlp", "width": 64},
        "federation": {"rounds": rounds, "evaluate_every": rounds},
    }  # fmt: skip
    last = fedsim.run(tables, out=tmp_path).record.arms[0].rounds[-1]
    assert not last.failures
    assert last.test_metrics["test_accuracy"] > 3 * CHANCE
