"""Attacks on sums: what is told, what is refused, and what comes back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError
from fedsim.federation.client import local_training
from fedsim.record.store import RunFolder
from fedsim.report import writing
from fedsim.scenario import world as worlds
from fedsim.threat.observe import observe
from fedsim.threat.replay import replay
from fedsim.threat.victim import Victim
from tests.experiment.running import Build
from tests.federating import recorded, run
from tests.federation.secured import SUM

BATCH_NORM = """
from torch import nn
def make(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, spec.classes))
"""


def test_a_rule_that_gives_no_mean_is_refused_under_attacks_on_the_sum(scenario: Build) -> None:
    tables: dict[str, Any] = {"threat": SUM, "aggregation": {"name": "median"}}
    assert len(run(scenario(**tables)).entries) == 1
    with pytest.raises(ScenarioError, match="'median' does not return the mean of the updates"):
        scenario(**tables, attacks=[{"name": "inverting-gradients"}])


@pytest.mark.parametrize("secure", [None, {"mode": "masked"}])
def test_an_attack_on_the_sum_end_to_end(scenario: Build, tmp_path: Path, secure: dict[str, str] | None) -> None:
    """Four clients of one image each: the attack gets one gradient of four images."""
    attacks = [{"name": "inverting-gradients", "max_iterations": 8}, {"name": "dropout-inversion", "max_iterations": 8}]
    built = scenario(threat=SUM, secure_aggregation=secure, attacks=attacks)
    record = recorded(built, tmp_path / "run")
    (arm,) = record.arms
    assert arm.replay_matches
    for attack in arm.attacks:
        (victim,) = attack.victims
        assert victim.failure is None
        assert (victim.clients, victim.sender) == ((0, 1, 2, 3), "sum of 4 clients")
        assert len(victim.scores) == 4
        # Without quantisation the union's gradient is the mean exactly; a step moves the cosine by less than 1e-4.
        assert abs(victim.objective_at_truth) < (1e-6 if secure is None else 1e-4)
    stored = RunFolder(tmp_path / "run").read_arrays()
    assert stored[f"{arm.attacks[0].victims[0].arrays}/originals"].shape == (4, 1, 8, 8)
    assert "round 1, sum of 4 clients" in writing.build(tmp_path / "run").read_text()
    assert ",0+1+2+3," in (tmp_path / "run" / "scores.csv").read_text()


def test_sparse_dictionary_separates_the_clients_of_a_plain_sum(scenario: Build, tmp_path: Path) -> None:
    """Its exact zeros survive a sum of four clients, and tell their images apart; coarse steps blur them."""
    tables: dict[str, Any] = {
        "model": {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.5},
        "threat": SUM,
        "attacks": [{"name": "sparse-dictionary"}],
    }
    (victim,) = recorded(scenario(**tables), tmp_path / "plain").arms[0].attacks[0].victims
    assert [item.values["psnr"] > 60 for item in victim.scores] == [True] * 4
    (victim,) = recorded(scenario(**tables, secure_aggregation={}), tmp_path / "secure").arms[0].attacks[0].victims
    blurred = [item.values["psnr"] for item in victim.scores]
    assert min(blurred) > 30
    assert max(blurred) < 90


def test_the_observation_of_a_sum_is_of_all_examples(scenario: Build) -> None:
    built = scenario(federation={"clients": 3, "batch_size": 2}, threat=SUM)
    (entry,) = run(built).entries
    world = worlds.build(built)
    replayed = replay(world, entry)
    assert replayed.matches
    seen = observe(Victim(world, entry, replayed.truth), ("labels", "masks", "batch-size", "dropout-rates"))
    assert [mask.shape for mask in seen.masks[0]] == [site.shape for site in seen.sites]
    assert (seen.threat.view, seen.batch_size, seen.update.examples) == ("sum", 6, 6)
    assert [site.shape[0] for site in seen.sites] == [6, 6]
    labels = [local_training(world, entry.received_weights, 1, client)[1].batches[0].labels for client in range(3)]
    assert seen.labels is not None
    assert torch.equal(seen.labels, torch.cat(labels))
    from attacks.core.matching.attack import MatchingConfig
    from attacks.gradient_matching.wiig import Wiig

    with pytest.raises(NotApplicable, match="works on single-update, but the server sees sum"):
        Wiig(MatchingConfig())(seen, seeding.generator(1, "attack"))


def test_a_model_that_mixes_examples_is_refused_under_attacks_on_the_sum(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mixing.py").write_text(BATCH_NORM)
    monkeypatch.syspath_prepend(str(tmp_path))
    tables: dict[str, Any] = {
        "model": {"name": "mixing:make"},
        "federation": {"batch_size": 2},
        "threat": SUM,
        "secure_aggregation": {},
    }
    assert recorded(scenario(**tables), tmp_path / "without").arms[0].replay_matches
    built = scenario(**tables, attacks=[{"name": "inverting-gradients"}])
    with pytest.raises(FedsimError, match=r"'2' \(BatchNorm1d\) mixes the examples"):
        recorded(built, tmp_path / "with")
