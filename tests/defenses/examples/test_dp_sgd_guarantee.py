"""What DP-SGD costs a federation: targets, the record's guarantee, and the history that each client keeps."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from flwr.app import RecordDict
from pydantic import ValidationError

from fedsim.core.types import Mechanism
from fedsim.federation import apps
from fedsim.federation.engines.local import LocalGrid
from fedsim.federation.journal import ServerLog
from fedsim.privacy.accounting import Spent, epsilon, guarantee
from fedsim.privacy.history import spend, spent
from fedsim.record import RoundRecord
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.defenses.noise.uploads import make
from tests.federating import recorded, scenario

Build = Callable[..., Scenario]
POISSON = {"sampling": "poisson", "batch_size": 16, "clients": 4}


def test_whole_shares_as_batches_need_no_sampling() -> None:
    federation = {"clients": 4, "batch_size": 10_000, "algorithm": "fedavg", "local_epochs": 2}
    world = worlds.build(scenario(federation=federation, defenses=[{"name": "dp-sgd"}]))
    world.check()
    stated = world.facts.client_mechanisms["dp-sgd"]
    assert (stated.sampling_rate, stated.steps) == (1.0, 2)


def test_exactly_one_of_noise_and_target_is_set() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        make("dp-sgd", noise_multiplier=1.0, target_epsilon=2.0)
    assert make("dp-sgd").config.multiplier(1.0, 1, sensitivity=1.0) == 1.0
    assert make("dp-sgd", noise_multiplier=0.0).config.multiplier(1.0, 1, sensitivity=1.0) == 0.0


@pytest.mark.paper_step("dp-sgd", "mechanism of a round")
def test_the_record_of_a_federation_states_the_guarantee(tmp_path: Path) -> None:
    federation = {**POISSON, "rounds": 3, "algorithm": "fedavg", "local_steps": 2}
    settings = {"name": "dp-sgd", "noise_multiplier": 1.5, "clip": 0.5}
    built_scenario = scenario(federation=federation, participation={"cohort": 2}, defenses=[settings], attacks=[])
    record = recorded(built_scenario, tmp_path)
    arm = record.arms[0]
    (found,) = arm.guarantees
    asked = max(sum(client in entry.cohort for entry in arm.rounds) for client in range(4))
    world = worlds.build(built_scenario)
    rate = 16 / min(len(share) for share in world.data.shares)
    expected = epsilon([Spent(1.5, rate, 2 * asked)], 1e-5)
    assert (found.source, found.unit, found.adjacency) == ("dp-sgd", "record", "add-or-remove")
    assert (found.epsilon, found.rdp_epsilon) == (expected.value, expected.rdp)
    assert (found.sampling_rate, found.steps, found.delta) == (rate, 2 * asked, 1e-5)
    assert "sampled most often" in found.composition
    assert "server" in found.adversary
    assert all(entry.training_loss == 0.0 for entry in arm.rounds)


class Remembering(LocalGrid):
    """The local engine, with a way to look at what its clients keep."""

    def kept(self, client: int) -> RecordDict:
        return self._state.get(client + 1) or RecordDict()


def kept_by(scenario: Scenario) -> tuple[Remembering, list[RoundRecord]]:
    world, journal = worlds.build(scenario), ServerLog(lambda _record: None)
    grid = Remembering(apps.client_app(lambda _: world), scenario.federation.clients, {})
    grid.serve(apps.server_app(world, journal))
    return grid, journal.rounds


def test_a_clients_history_grows_every_round_and_equals_the_record(tmp_path: Path) -> None:
    """An accountant that starts anew each round would report the first figure for ever."""
    built_scenario = scenario(federation={**POISSON, "rounds": 3}, defenses=[{"name": "dp-sgd"}], attacks=[])
    (found,) = recorded(built_scenario, tmp_path).arms[0].guarantees
    grid, _ = kept_by(built_scenario)
    stated = worlds.build(built_scenario).facts.client_mechanisms["dp-sgd"]
    for client in range(4):
        history = spent(grid.kept(client), "dp-sgd")
        assert [part.steps for part in history] == [1] * 3
        figures = [guarantee(stated, history[: number + 1]).epsilon for number in range(3)]
        assert all(later > earlier for earlier, later in pairwise(figures))
        assert figures[-1] == found.epsilon
        assert figures[0] < 0.9 * figures[-1]


def test_rounds_count_also_when_the_update_did_not_and_absent_clients_spend_nothing() -> None:
    lossy = {"drop_after": 0.5, "drop_before": 0.3}
    built_scenario = scenario(
        federation={**POISSON, "rounds": 6, "clients": 8},
        participation=lossy,
        defenses=[{"name": "dp-sgd"}],
        attacks=[],
    )
    grid, rounds = kept_by(built_scenario)
    for client in range(8):
        trained = 0
        for entry in rounds:
            lost = [f for f in entry.failures if f.subject == f"client {client}"]
            trained += not (lost and lost[0].reason == "dropped out before training")
        assert len(spent(grid.kept(client), "dp-sgd")) == trained
    assert any(f.reason == "dropped out after training" for entry in rounds for f in entry.failures)


def test_the_history_keeps_each_mechanism_apart() -> None:
    state = RecordDict()
    stated = replace(mechanism(), steps=3)
    spend(state, {"one": stated})
    spend(state, {"one": stated, "two": mechanism()})
    assert spent(state, "one") == (Spent(1.0, 0.5, 3), Spent(1.0, 0.5, 3))
    assert spent(state, "two") == (Spent(1.0, 0.5, 1),)
    assert spent(state, "three") == ()


def mechanism() -> Mechanism:
    return Mechanism("record", "add-or-remove", 1.0, 0.5, 1, 1e-5, "the server")


def test_failing_clients_leave_a_round_and_its_guarantee_whole(scenario: Build, tmp_path: Path) -> None:
    built_scenario = scenario(
        federation={**POISSON, "rounds": 2},
        participation={"always_crash": [1]},
        defenses=[{"name": "dp-sgd"}],
        attacks=[],
    )
    arm = recorded(built_scenario, tmp_path).arms[0]
    assert [len(entry.failures) for entry in arm.rounds] == [1, 1]
    assert arm.guarantees[0].steps == 2
