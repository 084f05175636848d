"""The scorer's truth: when a repetition counts as that of the observed update, and what the union of clients says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import WireEntry
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.replay import check_union, replay
from tests.conftest import Counting
from tests.experiment.running import Build
from tests.federating import run


def observed(scenario: Scenario) -> tuple[worlds.World, WireEntry]:
    (entry,) = run(scenario).entries
    return worlds.build(scenario), entry


def moved(entry: WireEntry, share: float) -> WireEntry:
    """Return the entry with an update that is off by a share of its norm."""
    tensors = dict(entry.update.tensors)
    norm = torch.stack([tensor.norm() for tensor in tensors.values()]).norm()
    name, first = next(iter(tensors.items()))
    direction = torch.ones_like(first) / first.numel() ** 0.5
    return replace(entry, update=replace(entry.update, tensors={**tensors, name: first + share * norm * direction}))


@pytest.mark.parametrize(
    ("engine", "share", "matches"),
    [("local", 1e-5, False), ("vectorized", 1e-5, True), ("vectorized", 3e-4, False), ("vectorized", 5e-3, False)],
)
def test_only_an_engine_that_rounds_otherwise_may_be_off_and_by_little(
    scenario: Build, engine: str, share: float, matches: bool
) -> None:
    world, entry = observed(scenario(federation={"engine": engine, "batch_size": 2}))
    assert replay(world, entry).matches
    assert replay(world, moved(entry, share)).matches is matches


def test_how_far_it_may_be_off_grows_with_the_update(scenario: Build) -> None:
    """A tiny step makes a tiny update: what is little beside a gradient is much beside it."""
    step = {"algorithm": "fedavg", "local_steps": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-4}}
    world, entry = observed(scenario(federation={"engine": "vectorized", "batch_size": 2, **step}))
    norm = torch.stack([tensor.norm() for tensor in entry.update.tensors.values()]).norm()
    assert norm < 1e-2
    assert replay(world, moved(entry, 1e-5)).matches
    assert not replay(world, moved(entry, 5e-3)).matches


def test_an_update_of_zeros_is_repeated_too(scenario: Build) -> None:
    step = {"algorithm": "fedavg", "local_steps": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-30}}
    world, entry = observed(scenario(federation={"engine": "vectorized", "batch_size": 2, **step}))
    assert not any(bool(tensor.any()) for tensor in entry.update.tensors.values())
    assert replay(world, entry).matches


def test_a_client_that_remembers_is_followed_through_its_earlier_rounds(
    scenario: Build, counting: type[Counting]
) -> None:
    tables: dict[str, Any] = {
        "federation": {"rounds": 2, "batch_size": 2},
        "threat": {"rounds": [2], "victims": 1},
        "defenses": [{"name": "error-feedback"}],
    }
    world, entry = observed(scenario(**tables))
    replayed = replay(world, entry)
    assert replayed.matches
    assert not replayed.raw_is_wire
    assert not replay(world, replace(entry, earlier={})).matches


def test_a_mean_of_one_client_is_its_update(scenario: Build) -> None:
    tables: dict[str, Any] = {"federation": {"clients": 1, "batch_size": 2}, "threat": {"view": "sum"}}
    world, entry = observed(scenario(**tables))
    replayed = replay(world, entry)
    assert entry.clients == (0,)
    assert replayed.matches
    assert replayed.raw_is_wire
    assert replayed.truth.raw.kind == entry.update.kind


@pytest.mark.parametrize("mode", ["ideal", "masked"])
def test_a_sum_behind_secure_aggregation_is_repeated_with_its_rounding(scenario: Build, mode: str) -> None:
    tables: dict[str, Any] = {"threat": {"view": "sum"}, "secure_aggregation": {"mode": mode}}
    world, entry = observed(scenario(**tables))
    replayed = replay(world, entry)
    assert replayed.matches
    assert not replayed.raw_is_wire
    assert len(replayed.costs) == len(entry.clients) == 4
    assert len(replayed.truth.batches[0]) == 4


def test_a_mean_gradient_is_that_of_the_union_unless_a_layer_mixes_a_clients_examples(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mixing_net.py").write_text(
        "from torch import nn\n"
        "def make(spec):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    check_union(worlds.build(scenario()))
    with pytest.raises(FedsimError, match=r"'2' \(BatchNorm1d\) mixes the examples of each client's batch"):
        check_union(worlds.build(scenario(model={"name": "mixing_net:make"}, federation={"batch_size": 2})))


def test_a_mean_gradient_is_not_that_of_the_union_where_a_component_takes_a_clients_batch_as_a_whole(
    scenario: Build,
) -> None:
    own = {"name": "feature-cutmix", "at": "3", "size": [4, 4]}
    tables: dict[str, Any] = {"model": {"name": "convnet"}, "federation": {"batch_size": 2}, "components": [own]}
    with pytest.raises(FedsimError, match="component feature-cutmix depends on each client's whole batch"):
        check_union(worlds.build(scenario(**tables)))


def test_the_loss_of_a_union_is_that_of_its_examples(scenario: Build) -> None:
    """Clients own different numbers of examples, and those of many count as much more."""
    tables: dict[str, Any] = {
        "federation": {"clients": 3, "algorithm": "fedavg", "local_epochs": 1, "batch_size": 2000},
        "partition": {"scheme": "quantity-skew", "alpha": 1.0},
        "threat": {"view": "sum"},
        "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0},
    }
    world, entry = observed(scenario(**tables))
    truth = replay(world, entry).truth
    (batch,) = truth.batches
    sizes = [len(share) for share in world.data.shares]
    assert len(set(sizes)) == 3
    assert truth.raw.examples == sum(sizes) == len(batch)
    # Each takes one step from the weights received, on all that it owns: the mean over the union is one mean.
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            world.models.load_weights(entry.received_weights)(batch.inputs), batch.labels
        )
    assert truth.raw.loss == pytest.approx(float(expected), rel=1e-5)


def test_who_observes_a_few_of_a_million_keeps_their_updates_and_repeats_nobody_else(
    scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = scenario(
        federation={"clients": 1_000_000, "engine": "vectorized", "evaluate_every": 100},
        partition={"scheme": "resampled", "examples_per_client": 15},
        participation={"cohort": 20},
        threat={"victims": 3},
    )
    journal = run(built)
    assert len(journal.entries) == 3
    assert len(journal.rounds[0].cohort) == 20
    world = worlds.build(built)
    repeated: list[int] = []
    drawn = type(world.data).batches

    def noted(data: Any, round_: int, client: int) -> Any:
        repeated.append(client)
        return drawn(data, round_, client)

    monkeypatch.setattr(type(world.data), "batches", noted)
    assert all(replay(world, entry).matches for entry in journal.entries)
    assert repeated == [entry.client for entry in journal.entries] == list(journal.rounds[0].cohort[:3])
