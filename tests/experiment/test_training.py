"""Arms that differ in what the trained model writes alone are trained once, and their records tell the same."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.experiment import training
from fedsim.record import ArmRecord, Finding, RoundRecord
from fedsim.scenario.world import World
from tests.experiment.generating import tables
from tests.experiment.running import Build, Silent, run


class Counting(Silent):
    """Counts the rounds that it is told of, and those whose speed can be told."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[str] = []
        self.timed = 0

    def round(self, record: RoundRecord) -> None:
        self.rounds.append(self.name)
        self.timed += record.tokens is not None


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scenarios that were trained, as text."""
    federate, seen = training.federate, list[str]()

    def noting(world: World, *more: Any) -> Any:
        seen.append(world.scenario.model_dump_json())
        return federate(world, *more)

    monkeypatch.setattr(training, "federate", noting)
    return seen


def without_times(arm: ArmRecord) -> list[Finding]:
    return [finding.model_copy(update={"seconds": 0.0}) for finding in arm.answers]


def test_arms_with_other_decoders_share_a_training_and_their_records_are_those_of_single_runs(
    scenario: Build, tmp_path: Path, trained: list[str]
) -> None:
    watcher = Counting()
    asked = tables(tmp_path, **{"generation.decoder": ["greedy", "sampled"]})
    greedy, sampled = run(scenario(**asked), tmp_path / "both", watcher).arms
    assert len(trained) == 1
    assert watcher.rounds == ["decoder greedy"] * 2 + ["decoder sampled"] * 2
    assert watcher.timed == 2, "rounds that were trained before take no time"
    assert greedy.model_hash == sampled.model_hash
    assert greedy.rounds == sampled.rounds
    assert (greedy.answers[0].method, sampled.answers[0].method) == ("greedy", "sampled")
    alone = tables(tmp_path)
    alone["generation"]["decoder"] = "sampled"
    (own,) = run(scenario(**alone), tmp_path / "alone").arms
    assert len(trained) == 2
    assert own.model_hash == sampled.model_hash
    assert without_times(own) == without_times(sampled)
    assert own.items == sampled.items
    assert len(own.items["generation/traces"]["tokens"]) == own.answers[0].scope["texts"]
    assert [attack.victims[0].scores for attack in own.attacks] == [one.victims[0].scores for one in sampled.attacks]
    for number in (0, 1):
        assert (tmp_path / "both" / "weights" / f"arm-{number}.npz").exists()


def test_arms_that_differ_in_anything_else_are_trained_each(
    scenario: Build, tmp_path: Path, trained: list[str]
) -> None:
    asked = tables(tmp_path, **{"federation.batch_size": [1, 2], "generation.max_new_tokens": [2, 3]})
    asked["attacks"] = []
    record = run(scenario(**asked), tmp_path / "run")
    assert [arm.name for arm in record.arms] == [
        f"batch_size {size}, max_new_tokens {n}" for size in (1, 2) for n in (2, 3)
    ]
    hashes = [arm.model_hash for arm in record.arms]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
    assert len(trained) == 2
