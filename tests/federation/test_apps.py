"""The app equals a bare loop, and reports every round."""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import model_hash, train
from fedsim.federation import apps
from fedsim.record import RoundRecord
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.federating import by_hand, run

DIVERGING = """
import torch
from torch import nn
class Diverging(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
    def forward(self, x):
        x = x.flatten(1)
        poison = torch.where(x.sum(1, keepdim=True) > {bound}, torch.inf, 1.0)
        return self.linear(x) * poison
def make(spec):
    return Diverging(spec.classes)
class Raising(Diverging):
    def forward(self, x):
        if self.training:
            raise RuntimeError("my layer is broken")
        return super().forward(x)
def broken(spec):
    return Raising(spec.classes)
"""


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that fail in a round; what is tried before anything runs would find them, and is left out."""
    monkeypatch.setattr("fedsim.scenario.user_models.check_model", lambda *_, **__: None)
    (tmp_path / "own_models.py").write_text(DIVERGING.format(bound=2.0))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_clients_of_this_process_live_in_the_world_of_the_server(
    scenario: Build, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds.build(scenario(federation={"clients": 2, "rounds": 1, "engine": engine}))
    built: list[Scenario] = []
    monkeypatch.setattr(apps, "build", built.append)
    assert train(world, lambda _: None).rounds[0].participants == (0, 1)
    assert built == []


def test_another_process_builds_the_world_of_the_scenario_that_it_is_sent_once(scenario: Build) -> None:
    sent = Context(1, 1, {}, RecordDict(), {apps.SCENARIO_KEY: scenario(seed=11).model_dump_json()})
    assert apps.sent_world(sent).scenario == scenario(seed=11)
    assert apps.sent_world(sent) is apps.sent_world(sent)


@pytest.mark.parametrize("algorithm", [{"algorithm": "fedsgd"}, {"algorithm": "fedavg", "local_steps": 3}])
def test_the_app_on_the_local_engine_equals_a_bare_loop_bit_by_bit(scenario: Build, algorithm: dict) -> None:
    whole = {"optimizer": {"name": "sgd", "learning_rate": 1.0}}
    built = scenario(federation={"rounds": 3, "batch_size": 4, **algorithm}, aggregation=whole)
    journal = run(built)
    assert model_hash(journal.weights) == model_hash(by_hand(built, journal.rounds))


def test_training_learns_and_reports_every_round(scenario: Build) -> None:
    journal = run(
        scenario(
            federation={"algorithm": "fedavg", "rounds": 6, "local_steps": 20, "batch_size": 16, "evaluate_every": 2}
        )
    )
    assert [record.test_metrics.get("test_accuracy") is not None for record in journal.rounds] == [False, True] * 3
    assert journal.rounds[-1].test_metrics.get("test_accuracy") > 0.8
    assert journal.rounds[-1].training_loss < journal.rounds[0].training_loss


@pytest.mark.usefixtures("own_models")
def test_an_update_that_is_not_finite_is_reported_and_left_out(scenario: Build) -> None:
    built = scenario(model={"name": "own_models:make"}, federation={"clients": 8, "rounds": 2}, threat={"victims": 8})
    journal = run(built)
    left_out = [failure.subject for record in journal.rounds for failure in record.failures]
    assert left_out
    assert len(left_out) < 16
    assert all(torch.isfinite(tensor).all() for tensor in journal.weights.values())
    assert {entry.client for entry in journal.entries}.isdisjoint(
        int(failure.subject.split()[1]) for failure in journal.rounds[0].failures
    )


@pytest.mark.usefixtures("own_models")
def test_a_user_model_that_always_fails_is_one_clear_error(scenario: Build) -> None:
    with pytest.raises(FedsimError, match=r"every client of the round failed.*my layer is broken \(own_models.py"):
        run(scenario(model={"name": "own_models:broken"}))


def test_server_reports_rounds_in_order(scenario: Build) -> None:
    built = scenario(federation={"rounds": 3})
    world = worlds.build(built)
    seen: list[RoundRecord] = []
    train(world, seen.append)
    assert [record.round for record in seen] == [1, 2, 3]
    assert apps.evaluate_model(world, world.models.first_weights)["test_accuracy"] < 0.5


def test_weights_of_another_arm_with_the_same_numbers_keep_their_own_names() -> None:
    numbers = torch.arange(3.0)
    decoded = apps._Decoded()
    for name in ("layer.weight", "own.layer.weight"):
        found = decoded.weights(ArrayRecord({name: numbers}))
        assert list(found) == [name]
        assert torch.equal(found[name], numbers)
