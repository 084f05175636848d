"""Mixed batches: sizes that are refused, and probabilities as labels through a whole run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import FedsimError
from fedsim.scenario import Scenario
from fedsim.scenario.world import build
from tests.federating import recorded, scenario

Build = Callable[..., Scenario]


@pytest.mark.parametrize(("name", "size"), [("mixup", 1), ("instahide", 3)])
def test_batches_that_are_too_small_are_refused(name: str, size: int) -> None:
    built = scenario(federation={"batch_size": size}, defenses=[{"name": name}])
    with pytest.raises(
        FedsimError, match=rf"'{name}' does not fit: it mixes \d examples of a batch, but a batch holds {size}"
    ):
        build(built).check()


@pytest.mark.parametrize(
    ("name", "federation", "attacks"),
    [
        ("mixup", {}, ["inverting-gradients", "dropout-inversion", "dlg", "mixup-inversion"]),
        ("instahide", {}, ["inverting-gradients", "dropout-inversion"]),
        ("mixup", {"algorithm": "fedavg", "local_steps": 2}, ["sme"]),
    ],
)
def test_probabilities_pass_through_client_replay_attacks_and_scores(
    tmp_path: Path, name: str, federation: dict[str, Any], attacks: list[str]
) -> None:
    built = scenario(
        federation={"clients": 2, "batch_size": 2, **federation},
        defenses=[{"name": name, **({"images": 2} if name == "instahide" else {})}],
        threat={"knows": ["labels", "batch-size", "dropout-rates", "input-statistics", "defenses"]},
        attacks=[{"name": attack, "max_iterations": 4} for attack in attacks],
    )
    (arm,) = recorded(built, tmp_path / "run").arms
    assert arm.replay_matches
    for attack in arm.attacks:
        (victim,) = attack.victims
        assert victim.failure is None, victim.failure
        assert len(victim.scores) == (2 if not federation else 4)
        assert federation or abs(victim.objective_at_truth or 0.0) < 1e-6
        if attack.method == "dropout-inversion":
            assert victim.masks
