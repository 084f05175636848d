"""What is worked out once a victim, whoever asks for it."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.types import WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from fedsim.threat import victim as victims
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.experiment.running import Build
from tests.federating import recorded

TWO_BY_TWO_BY_TWO: dict[str, Any] = {
    "federation": {"clients": 4, "rounds": 1, "batch_size": 2},
    "threat": {"victims": 2, "knows": ["batch-size", "dropout-rates", "masks", "labels"]},
    "attacks": [
        {"name": "inverting-gradients", "label": "IG", "max_iterations": 3},
        {"name": "dropout-inversion", "label": "DIA", "max_iterations": 3},
    ],
    "arms": {"model.dropout": [0.1, 0.25]},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what is worked out beside an update and its truth."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        function = getattr(victims, name)

        def called(*arguments: Any) -> Any:
            counted[name] += 1
            return function(*arguments)

        return called

    for name in ("unique_examples", "dropout_sites", "objective_at_truth", "update_distance"):
        monkeypatch.setattr(victims, name, counting(name))
    return counted


def test_two_attacks_on_two_victims_in_two_arms_work_everything_out_once_a_victim(
    scenario: Build, tmp_path: Path, calls: Counter[str]
) -> None:
    record = recorded(scenario(**TWO_BY_TWO_BY_TWO), tmp_path / "run")
    answers = [victim for arm in record.arms for attack in arm.attacks for victim in attack.victims]
    assert len(answers) == 8
    assert all(victim.objective_at_truth is not None and victim.scores for victim in answers)
    assert any(victim.masks for victim in answers)
    once = {"unique_examples": 4, "dropout_sites": 4, "objective_at_truth": 4}
    assert calls == {**once, "update_distance": 4 + 8}  # of each truth, and of each guess


def test_who_asks_first_changes_no_randomness_of_an_attack(scenario: Build) -> None:
    world = worlds.build(scenario(model={"name": "mlp", "dropout": 0.25}))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    victim = Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth)
    before = torch.random.get_rng_state()
    assert victim.objective_at_truth == pytest.approx(0.0, abs=1e-9)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert observe(victim, ("batch-size", "dropout-rates")).sites == victim.sites
    assert [site.shape[0] for site in victim.sites_of_one] == [1] * len(victim.sites)
