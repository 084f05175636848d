"""Attackers who know a defense that changes the model or the batch: better than those who do not, on tiny models."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.gradient_matching._unknowns import NoMasks
from attacks.gradient_matching.noise_inversion import NoiseInversion, NoiseInversionConfig, _Unknowns
from attacks.mixed_batches.mixup_inversion import _WithShare
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Step, Truth
from fedsim.metrics.image import score_items
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
Named = Callable[..., Attack[Any]]
KNOWN = tuple(
    word for word in ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses") if word != "defenses"
)
ALL = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")
MLP = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}
CONVNET = {"name": "convnet", "width": 8, "dropout": 0.0}
INFORMED = [
    ("precode", "noise-inversion", 1),
    ("mixup", "mixup-inversion", 2),
    ("ats", "transform-inversion", 1),
]


@pytest.fixture
def attacked(watched: Watched, attack_named: Named) -> Callable[..., tuple[float, Reconstruction]]:
    """Attack one client, and return the mean PSNR of what was found."""

    def build(
        attack: str,
        defense: str | None,
        *,
        model: dict[str, Any] = MLP,
        batch: int = 1,
        client: int = 0,
        **settings: Any,
    ) -> tuple[float, Reconstruction]:
        defenses = [] if defense is None else [{"name": defense}]
        knows = KNOWN if attack == "inverting-gradients" else ALL
        observation, truth, world = watched(
            knows=knows, client=client, model=model, defenses=defenses, federation={"batch_size": batch}
        )
        with seeding.contained(1):  # an attacker who ignores noise inside the model draws it where torch does
            own = {"iterations": 400, "sign": "soft", "schedule": "cosine", **settings}
            found = attack_named(attack, **own)(observation, seeding.generator(5, "attack"))
        items = score_items(found, truth.private[0], world.data.dataset.spec).items
        return sum(item.values["psnr"] for item in items) / len(items), found

    return build


Attacked = Callable[..., tuple[float, Reconstruction]]


@pytest.mark.parametrize("model", [MLP, CONVNET], ids=["mlp", "convnet"])
def test_without_a_defense_the_naive_attack_succeeds(attacked: Attacked, model: dict[str, Any]) -> None:
    assert attacked("inverting-gradients", None, model=model)[0] > 40


@pytest.mark.parametrize("client", [0, 1])
def test_precode_stops_the_naive_attacker_and_not_the_one_who_searches_the_noise(
    attacked: Attacked, client: int
) -> None:
    naive, _ = attacked("inverting-gradients", "precode", client=client)
    informed, found = attacked("noise-inversion", "precode", client=client)
    assert naive < 10
    assert informed > 20
    assert found.masks is None


def test_the_expectation_of_the_noise_is_not_enough_where_its_deviation_is_large(attacked: Attacked) -> None:
    joint, _ = attacked("noise-inversion", "precode")
    expectation, found = attacked("noise-inversion", "precode", noise="expectation")
    assert joint > expectation + 10
    assert found.objective > 0.1


def test_the_convolutional_bottleneck_gives_way_too(attacked: Attacked) -> None:
    naive, _ = attacked("inverting-gradients", "cvb", model=CONVNET)
    informed, _ = attacked("noise-inversion", "cvb", model=CONVNET)
    assert informed > naive + 4


def test_dropout_and_the_bottleneck_are_searched_together(watched: Watched, attack_named: Named) -> None:
    observation, truth, world = watched(
        knows=ALL, model={**MLP, "dropout": 0.25}, defenses=[{"name": "precode", "latent": 32}]
    )
    attack = attack_named("noise-inversion", iterations=400, sign="soft", schedule="cosine")
    found = attack(observation, seeding.generator(5, "attack"))
    assert found.masks is not None
    assert [mask.shape for mask in found.masks] == [site.shape for site in observation.sites]
    assert score_items(found, truth.private[0], world.data.dataset.spec).items[0].values["psnr"] > 20


def test_at_the_truth_the_objective_vanishes_for_the_true_noise_and_penalty(watched: Watched) -> None:
    """The simulated client is the real one: the divergence in the loss included, however heavy."""
    observation, truth, _ = watched(
        knows=ALL, model=MLP, defenses=[{"name": "precode", "beta": 1.0}], federation={"batch_size": 2}
    )
    attack = NoiseInversion(NoiseInversionConfig())
    search = attack.plan([observation])
    comparison = attack.comparison([observation], search)
    noise = torch.randn(2, 256, generator=seeding.generator(3, "defense 0 batch", 1, 0, 0))
    batch = truth.batches[0]
    distance = search.distance(comparison.gradients(batch.inputs[None], (noise[None],), batch.labels[None], [0]))
    assert abs(distance.item()) < 1e-5


def test_mixup_stops_the_naive_attacker_and_not_the_one_who_searches_the_weight(attacked: Attacked) -> None:
    """Client 2 draws a swapped pair; a batch whose partners are the examples themselves is not mixed at all."""
    naive, _ = attacked("inverting-gradients", "mixup", batch=2, client=2)
    informed, found = attacked("mixup-inversion", "mixup", batch=2, client=2)
    assert naive < 30
    assert informed > 50
    assert "partners [1, 0]" in found.notes[-1]
    assert found.facts["weight"] == pytest.approx(0.117, abs=0.01)


@pytest.mark.parametrize("client", [0, 2])
def test_ats_stops_the_naive_attacker_and_not_the_one_who_searches_through_the_policies(
    attacked: Attacked, watched: Watched, client: int
) -> None:
    naive, _ = attacked("inverting-gradients", "ats", client=client)
    informed, found = attacked("transform-inversion", "ats", client=client)
    assert informed > naive + 3
    observation, truth, _ = watched(knows=ALL, client=client, model=MLP, defenses=[{"name": "ats"}])
    true = truth.batches[0].inputs
    policies = observation.public[0].facts["transforms"]
    (used,) = [policy for policy in policies if torch.allclose(policy(truth.private[0].inputs), true, atol=1e-5)]
    assert f"'{used}'" in found.notes[-1]


@pytest.mark.parametrize(("defense", "attack", "batch"), INFORMED)
def test_informed_attacks_keep_the_contract(
    watched: Watched,
    attack_named: Named,
    left_alone: Callable[[Observation], AbstractContextManager[None]],
    defense: str,
    attack: str,
    batch: int,
) -> None:
    observation, _, _ = watched(knows=ALL, defenses=[{"name": defense}], federation={"batch_size": batch})
    method = attack_named(attack, iterations=6, trials=2)
    steps: list[Step] = []
    with left_alone(observation):
        first = method(observation, seeding.generator(1, "attack"), steps.append)
    second = method(observation, seeding.generator(1, "attack"))
    assert torch.equal(first.inputs, second.inputs)
    assert first.inputs.shape == (batch, *observation.spec.shape)
    assert first.masks is not None
    assert [mask.shape for mask in first.masks] == [site.shape for site in observation.sites]
    assert [step.iteration for step in steps] == sorted(step.iteration for step in steps)
    assert all(step.iteration <= step.iterations for step in steps)
    unaware = replace(observation, threat=replace_knows(observation), public=())
    with pytest.raises(NotApplicable, match="needs the threat model to grant defenses"):
        method(unaware, seeding.generator(1, "attack"))
    with pytest.raises(NotApplicable, match="no defense in use"):
        method(replace(observation, public=()), seeding.generator(1, "attack"))


def replace_knows(observation: Observation) -> Any:
    knows = tuple(word for word in observation.threat.knows if word != "defenses")
    return observation.threat.model_copy(update={"knows": knows})


def test_large_batches_have_too_many_pairings(watched: Watched, attack_named: Named) -> None:
    observation, _, _ = watched(knows=ALL, defenses=[{"name": "mixup"}], federation={"batch_size": 5})
    with pytest.raises(NotApplicable, match="paired in 120 ways"):
        attack_named("mixup-inversion")(observation, seeding.generator(1, "attack"))


def test_unknowns_have_their_priors_and_ranges() -> None:
    noise = _Unknowns(NoMasks(), [(2, 3), (4,)], 0.5, is_zero=False)
    first = noise.first(torch.Generator().manual_seed(0))
    assert [tuple(own.shape) for own in first] == [(2, 3), (4,)]
    rows = tuple(torch.stack([own, 2.0 * own]) for own in first)
    expected = [0.25 * factor * sum(float(own.square().mean()) for own in first) for factor in (1.0, 4.0)]
    assert torch.as_tensor(noise.prior(rows)).tolist() == pytest.approx(expected)
    assert not any(bool(own.any()) for own in _Unknowns(NoMasks(), [(3,)], 0.5, is_zero=True).first(torch.Generator()))
    share = _WithShare(NoMasks())
    variables = (torch.tensor([[-0.5], [0.5], [1.5]]),)
    share.project(variables)
    assert variables[0].flatten().tolist() == [0.0, 0.5, 1.0]
