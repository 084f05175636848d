"""From a request to what attacks read: the gradient of what is forgotten, its truth, and the record of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.types import Reconstruction, Tensors
from fedsim.federation.journal import ServerLog
from fedsim.questions.attacks import unlearning
from fedsim.record import ArmRecord
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.victim import Victim
from tests.experiment.running import Build
from tests.federating import recorded, run

CLOSED = [{"name": "closed-form-linear"}]
SMALL: dict[str, Any] = {
    "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0, "bias": True},
    "federation": {"clients": 3, "batch_size": 30},
    "data": {"name": "mnist5k", "train": 90},
    "attacks": CLOSED,
    "unlearning": {"method": "retraining", "clients": 2},
}


def small(scenario: Build, **tables: Any) -> tuple[World, ServerLog]:
    own = scenario(**{**SMALL, **tables})
    return worlds.build(own), run(own)


def by_hand(victim: Victim) -> dict[str, Tensor]:
    """The mean gradient of the private examples at the weights that the entry answers."""
    world, (examples,) = victim.world, victim.truth.original_batches
    model = world.models.load_weights(victim.entry.received_weights)
    return gradient_of(
        torch.nn.functional.cross_entropy(model(examples.inputs), examples.labels), world.models.parameters
    )


def distance(ours: Tensors, theirs: Tensors) -> float:
    flat, expected = (torch.cat([own[name].flatten() for name in theirs]) for own in (ours, theirs))
    return float(torch.dist(flat, expected) / expected.norm())


ROUNDING = 1e-3  # single precision, of which n g - (n - 1) g' loses a factor of n, here up to 90


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"unlearning": {"method": "retraining", "clients": 2, "examples": 3}},
        {"threat": {"view": "sum"}},
        {
            "unlearning": {"method": "gradient-ascent", "clients": 2},
            "federation": {"clients": 3, "batch_size": 8, "rounds": 4},
        },
        {"unlearning": {"method": "gradient-ascent", "examples": 5}, "federation": {"clients": 3, "batch_size": 2}},
    ],
)
def test_what_is_worked_out_is_the_gradient_of_what_is_forgotten_alone(scenario: Build, tables: dict[str, Any]) -> None:
    world, journal = small(scenario, **tables)
    unlearning.check(world)
    asked = world.scenario.unlearning
    victims = unlearning.unlearning_victims(world, journal)
    assert [victim.entry.client for victim in victims] == list(range(asked.clients))
    for victim in victims:
        (forgotten,) = victim.truth.original_batches
        assert len(forgotten) == victim.entry.update.examples == asked.examples
        assert distance(victim.entry.update.tensors, by_hand(victim)) < ROUNDING


@pytest.mark.parametrize("method", ["retraining", "gradient-ascent"])
def test_it_is_no_gradient_of_examples_that_stay(scenario: Build, method: str) -> None:
    (victim,), (asked,) = (
        unlearning.unlearning_victims(*small(scenario, unlearning={"method": method, "scored_on": scored}))
        for scored in ("retained", "forgotten")
    )
    assert distance(victim.entry.update.tensors, asked.entry.update.tensors) == 0
    assert not torch.equal(victim.truth.original_batches[0].inputs, asked.truth.original_batches[0].inputs)
    assert distance(victim.entry.update.tensors, by_hand(victim)) > 0.1


def test_noise_is_drawn_anew_and_stands_in_the_difference_as_often_as_there_are_examples(scenario: Build) -> None:
    scale, n = 1e-3, 30
    world, journal = small(scenario, defenses=[{"name": "gradient-noise", "scale": scale}])
    victim = unlearning.unlearning_victims(world, journal)[0]
    expected = by_hand(victim)
    rest = torch.cat([(victim.entry.update.tensors[name] - expected[name]).flatten() for name in expected])
    # Normal noise of both trainings; the standard deviation of P entries is known to 5 in the root of 2 P.
    assert float(rest.std()) == pytest.approx(scale * (n**2 + (n - 1) ** 2) ** 0.5, rel=5 / (2 * len(rest)) ** 0.5)


def test_the_clients_masks_are_known_of_its_own_step_and_of_no_difference(scenario: Build) -> None:
    dropping = {"model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.5}}
    world, journal = small(scenario, **dropping)
    assert unlearning.unlearning_victims(world, journal)[0].truth.masks == ()
    world, journal = small(scenario, **dropping, unlearning={"method": "gradient-ascent"})
    (victim,) = unlearning.unlearning_victims(world, journal)
    assert [len(mask) for mask in victim.truth.masks[0]] == [1] * len(world.models.sites)
    assert victim.objective_at_truth == pytest.approx(0, abs=1e-6)  # single precision


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"unlearning": {"method": "retraining", "clients": 4}}, r"unlearning.clients is 4, expected at most 3"),
        ({"federation": {"algorithm": "fedavg"}}, r"Expected federation.algorithm = 'fedsgd'"),
        ({"federation": {"sampling": "poisson"}}, r"federation.sampling = 'passes'"),
        ({"participation": {"cohort": 2}}, r"Leave out participation"),
        ({"secure_aggregation": {}, "threat": {"view": "sum"}}, r"Leave out secure_aggregation"),
        ({"scoring": {"ideal_attacker": True}}, r"scoring.ideal_attacker: .*Leave it out"),
        ({"unlearning": {"method": "sgd"}}, r"'sgd' is a component for hook optimizer, expected an unlearning"),
        ({"unlearning": {"method": "forget"}}, r"there is no component 'forget'"),
        ({"components": [{"name": "retraining"}]}, r"pass it to the table \[unlearning\]"),
    ],
)
def test_what_does_not_fit_together_is_said_when_the_file_is_read(
    scenario: Build, tables: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ScenarioError, match=expected):
        scenario(**{**SMALL, **tables})


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"unlearning": {"method": "retraining", "examples": 30}}, r"client 0 owns 30 examples.*at least 31"),
        ({"federation": {"clients": 3, "keep_optimizer_state": True}}, r"Remove federation.keep_optimizer_state"),
        ({"threat": {"knows": ["masks"]}}, r"'masks' does not exist and cannot be granted"),
        ({"threat": {"view": "sum"}, "aggregation": {"name": "mean", "weighted": False}}, r"'mean', weighted"),
        (
            {"threat": {"view": "sum"}, "aggregation": {"optimizer": {"name": "sgd", "momentum": 0.5}}},
            r"without momentum",
        ),
        ({"defenses": [{"name": "server-check"}]}, r"the defense that may refuse"),
    ],
)
def test_what_stands_in_the_way_is_said_before_the_first_round(
    scenario: Build, tables: dict[str, Any], expected: str
) -> None:
    with pytest.raises(FedsimError, match=expected):
        unlearning.check(worlds.build(scenario(**{**SMALL, **tables})))


def shares(arm: ArmRecord) -> list[float]:
    return [victim.scores[0].values["psnr"] for victim in arm.attacks[0].victims]


def test_an_attack_reads_the_forgotten_digit_in_a_run_and_a_control_that_stays_it_does_not(
    scenario: Build, tmp_path: Path
) -> None:
    asking = {"method": "retraining", "clients": 2}
    arms = {
        "request": {
            "none": {},
            "asked": {"unlearning": asking},
            "stays": {"unlearning": {**asking, "scored_on": "retained"}},
        }
    }
    record = recorded(scenario(**{**SMALL, "unlearning": None, "arms": arms}), tmp_path / "run")
    none, asked, stays = record.arms
    assert none.attacks[0].victims[0].failure is not None
    assert min(shares(asked)) > 60  # dB: exact to single precision
    assert max(shares(stays)) < 30
    assert [victim.client for victim in asked.attacks[0].victims] == [0, 1]
    assert none.attacked_model == "untrained"
    assert asked.attacked_model == "untrained, asked to forget after 1 round of training"
    assert none.model_hash == asked.model_hash
    assert any(s.startswith("In arm 'request asked': After the last round 2 clients") for s in record.threat_model)


@pytest.mark.parametrize(
    ("asking", "is_step"),
    [
        ({"method": "gradient-ascent"}, True),
        ({"method": "gradient-ascent", "scored_on": "retained"}, False),
        ({"method": "retraining"}, False),
    ],
)
def test_a_search_may_have_converged_on_a_step_and_on_nothing_that_is_worked_out(
    scenario: Build, asking: dict[str, Any], is_step: bool
) -> None:
    world, journal = small(scenario, unlearning=asking)
    (victim,) = unlearning.unlearning_victims(world, journal)
    (examples,) = victim.truth.original_batches
    assert victim.has_converged(Reconstruction.of(examples.inputs, examples.labels)) == (True if is_step else None)
