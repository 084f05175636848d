"""A server that changes the clients' model: who gets which weights when, what is told about it, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.experiment import runner
from fedsim.federation.journal import ServerLog
from fedsim.report import writing
from fedsim.scenario import Scenario, arms, parse
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.federating import recorded

RTF = {"name": "robbing-the-fed", "bins": 64}
RELU_MLP = {"name": "mlp", "width": 64, "depth": 2, "bias": True, "activation": "relu"}
MALICIOUS: dict[str, Any] = {"threat": {"server": "malicious"}, "attacks": [RTF], "federation": {"batch_size": 4}}


def trained(scenario: Scenario) -> ServerLog:
    return runner.train(worlds.build(scenario), lambda _round: None)


@pytest.mark.parametrize("attack", [RTF, {"name": "trap-weights"}])
def test_every_world_of_a_scenario_holds_the_same_bits(scenario: Build, attack: dict[str, Any]) -> None:
    built = scenario(**{**MALICIOUS, "attacks": [attack]}, model=RELU_MLP)
    first = worlds.build(built).models.first_weights
    torch.rand(7)
    second = worlds.build(Scenario.model_validate_json(built.model_dump_json())).models.first_weights
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    other = worlds.build(scenario(**{**MALICIOUS, "attacks": [attack]}, model=RELU_MLP, seed=4)).models.first_weights
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


@pytest.mark.parametrize("attack", [RTF, {"name": "trap-weights"}])
def test_both_engines_send_the_same_crafted_weights(scenario: Build, attack: dict[str, Any]) -> None:
    federation = {"batch_size": 4, "rounds": 2}
    tables = {"model": RELU_MLP, "attacks": [attack], "threat": {"server": "malicious", "rounds": [1, 2]}}
    local, vectorized = (
        trained(scenario(**tables, federation={**federation, "engine": engine})).entries
        for engine in ("local", "vectorized")
    )
    crafted = worlds.build(scenario(**tables, federation=federation)).models.crafted_changes.tensors
    assert [entry.round for entry in local] == [entry.round for entry in vectorized] == [1, 2]
    for one, other in zip(local, vectorized, strict=True):
        assert all(torch.equal(one.received_weights[name], tensor) for name, tensor in crafted.items())
        assert all(torch.equal(other.received_weights[name], tensor) for name, tensor in crafted.items())
    assert all(
        torch.equal(tensor, vectorized[0].received_weights[name]) for name, tensor in local[0].received_weights.items()
    )
    rest = local[0].received_weights.keys() - crafted.keys()
    assert any(not torch.equal(local[0].received_weights[name], local[1].received_weights[name]) for name in rest)


def test_the_model_trains_on_between_attacked_rounds(scenario: Build) -> None:
    tables = {
        **MALICIOUS,
        "federation": {"batch_size": 4, "rounds": 3},
        "threat": {"server": "malicious", "rounds": [3]},
    }
    crafted = worlds.build(scenario(**tables)).models.crafted_changes.tensors
    journal = trained(scenario(**tables))
    (entry,) = journal.entries
    assert all(torch.equal(entry.received_weights[name], tensor) for name, tensor in crafted.items())
    assert not torch.equal(journal.weights["0.1.weight"], crafted["0.1.weight"])


def test_the_clients_own_layers_are_left_alone_by_an_inserted_block(scenario: Build) -> None:
    world, honest = worlds.build(scenario(**MALICIOUS)), worlds.build(scenario(federation={"batch_size": 4}))
    assert (
        world.models.crafted_changes.added_names
        == world.models.crafted_changes.tensors.keys()
        == {"0.1.weight", "0.1.bias", "0.3.weight"}
    )
    for name, tensor in honest.models.first_weights.items():
        assert torch.equal(world.models.first_weights[f"1.{name}"], tensor)
    assert not honest.models.crafted_changes.tensors


def test_a_checkpoint_belongs_to_the_clients_own_model(scenario: Build, tmp_path: Path) -> None:
    recorded(scenario(federation={"rounds": 2}), tmp_path / "first")
    weights = tmp_path / "first" / "weights" / "arm-0.npz"
    model = {"name": "mlp", "width": 24, "depth": 2, "checkpoint": str(weights)}
    record = recorded(scenario(**MALICIOUS, model=model), tmp_path / "second")
    assert record.arms[0].attacked_model == "weights of arm-0.npz, changed by robbing-the-fed"
    (victim,) = record.arms[0].attacks[0].victims
    assert sum(item.values["psnr"] > 60 for item in victim.scores) >= 2


def test_the_record_and_the_report_say_what_was_changed(scenario: Build, tmp_path: Path) -> None:
    record = recorded(scenario(**MALICIOUS), tmp_path / "run")
    text = " ".join(record.threat_model)
    assert "The server is malicious: it changes the model that every client receives." in text
    assert "it adds '0.1.bias', '0.1.weight', '0.3.weight' (8,256 numbers) to it" in text
    assert "honest" not in text
    (arm,) = record.arms
    assert arm.replay_matches
    assert arm.attacked_model == "untrained, changed by robbing-the-fed"
    (victim,) = arm.attacks[0].victims
    assert victim.diagnostics["singly occupied bins expected"] == pytest.approx(4 * (63 / 64) ** 3)
    page = writing.build(tmp_path / "run").read_text()
    assert "Under a malicious server that knows" in page
    assert "honest-but-curious server" not in page
    assert "it changes the model that every client receives" in page


def test_arms_may_set_server_and_attacks_together(scenario: Build, tmp_path: Path) -> None:
    servers = {
        "honest": {"attacks": [{"name": "inverting-gradients", "max_iterations": 5}]},
        "malicious": {"threat.server": "malicious", "attacks": [RTF]},
    }
    built = scenario(federation={"batch_size": 1}, arms={"server": servers, "federation.batch_size": [2, 4]})
    assert parse(json.loads(built.model_dump_json()), "again") == built
    found = [(arm.threat.server, arm.attacks[0].name, arm.federation.batch_size) for _, arm in arms(built)]
    assert found == [
        ("honest-but-curious", "inverting-gradients", 2),
        ("honest-but-curious", "inverting-gradients", 4),
        ("malicious", "robbing-the-fed", 2),
        ("malicious", "robbing-the-fed", 4),
    ]
    record = recorded(built, tmp_path / "run")
    assert [arm.name for arm in record.arms][2:] == ["server malicious, batch_size 2", "server malicious, batch_size 4"]
    assert record.threat_model[0].startswith("The server is honest but curious")
    assert any(
        sentence.startswith("In arm 'server malicious, batch_size 2': The server is malicious")
        for sentence in record.threat_model
    )
    page = writing.build(tmp_path / "run").read_text()
    assert "Under an honest-but-curious server" in page
    assert "Under a malicious server" in page


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"attacks": [RTF]}, "changes the model that clients receive, which an honest server does not"),
        ({"threat": {"server": "malicious"}}, "but none of the attacks does. Expected any of: .*robbing-the-fed"),
        (
            {"threat": {"server": "malicious"}, "attacks": [{"name": "closed-form-linear"}]},
            "but none of the attacks does",
        ),
        (
            {"threat": {"server": "malicious"}, "attacks": [RTF, {"name": "trap-weights"}]},
            "but robbing-the-fed, trap-weights all do",
        ),
        ({"threat": {"server": "evil"}}, "threat.server: .*'honest-but-curious' or 'malicious'"),
        (
            {"arms": {"threat.server": ["malicious", "honest-but-curious"]}, "attacks": [RTF]},
            "an honest server does not",
        ),
        ({"arms": {"server": {"a": {"threat.sever": "malicious"}}}}, "threat.sever: there is no such key"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_runs(
    scenario: Build, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(**tables)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"attacks": [{"name": "trap-weights"}]}, "'trap-weights' cannot change this model: its first layer '1' has"),
        ({"data": {"name": "foolbox-samples"}, "federation": {"batch_size": 1}}, "the test set of these data is the"),
    ],
)
def test_a_model_that_cannot_be_changed_ends_the_run_before_round_1(
    scenario: Build, tmp_path: Path, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(FedsimError, match=message):
        recorded(scenario(**{**MALICIOUS, **tables}), tmp_path / "run")
    assert not (tmp_path / "run" / "record.json").exists()


def test_attacks_that_only_watch_may_stand_beside(scenario: Build, tmp_path: Path) -> None:
    watching = {"name": "inverting-gradients", "max_iterations": 5}
    record = recorded(scenario(**{**MALICIOUS, "attacks": [RTF, watching]}), tmp_path / "run")
    assert [victim.failure for attack in record.arms[0].attacks for victim in attack.victims] == [None, None]
