"""GradInversion: its priors in a search, and seeds that pull each other together."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.core.matching.priors.batch_statistics import StatisticsDistance
from attacks.gradient_matching.gradinversion import GradInversionConfig
from fedsim.core import seeding
from fedsim.core.types import Observation, Reconstruction
from fedsim.metrics.image import score_items
from tests.attacks.core.matching.measures import alone
from tests.attacks.core.matching.normalised import normalised
from tests.attacks.solving import attack_named, toy


def plain() -> nn.Module:
    with seeding.isolate_randomness(1):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.GELU(), nn.Dropout(0.25), nn.Linear(40, 4))


def attacked(observation: Observation, **settings: object) -> Reconstruction:
    attack = attack_named("gradinversion", **{"max_iterations": 30, "restarts": 2, **settings})
    return attack(observation, seeding.generator(3, "attack"))


@pytest.mark.paper_step("gradinversion", "several seeds with a pull to their mean")
def test_the_pull_of_the_group_brings_seeds_together() -> None:
    """With next to no gradient term, seeds end apart without the group term and together with it."""
    observation, _ = toy(plain(), (1, 6, 6), 1)
    ends: dict[float, float] = {}
    for weight in (0.0, 1.0):
        attack = attack_named(
            "gradinversion",
            priors=[{"name": "group-consistency", "weight": weight}],
        )
        search = attack.plan(alone(observation))  # type: ignore[attr-defined]
        rows = torch.randn((3, 1, 1, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        rows.requires_grad_()
        optimizer = torch.optim.Adam([rows], lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            value = search.prior(rows, (), [0, 0, 0]).sum()
            if weight:
                value.backward()
                optimizer.step()
        ends[weight] = float((rows - rows.mean(0)).square().mean().detach())
    assert ends[1.0] < 0.01 * ends[0.0]


@pytest.mark.slow
def test_a_batch_is_recovered_and_every_seed_has_masks_of_its_own() -> None:
    observation, truth = toy(plain(), (1, 6, 6), 2)
    observation = replace(observation, labels=truth.batches[0].labels)
    found = attacked(observation, max_iterations=600, restarts=3, boxed=False)
    assert min(item.values["psnr"] for item in score_items(found, truth.batches[0], observation.spec).items) > 25
    assert found.masks is not None
    assert found.diagnostics["starts"] == 3
    assert any("no running statistics" in note for note in found.notes)


def test_running_statistics_help_and_the_note_is_gone() -> None:
    observation, truth = toy(normalised(0.0), (1, 8, 8), 2)
    observation = replace(observation, labels=truth.batches[0].labels)
    found = attacked(observation, max_iterations=20)
    others = [prior for prior in GradInversionConfig().priors if prior.name != "batch-statistics"]
    without = attacked(observation, max_iterations=20, priors=others)
    distance = StatisticsDistance(observation, observation.sites)
    assert float(distance(found.inputs[None], ())) < float(distance(without.inputs[None], ()))
    assert found.notes == ("gradients compared by the general path",)


def test_unknown_rates_mean_a_search_without_dropout() -> None:
    observation, _ = toy(plain(), (1, 6, 6), 1)
    blind = replace(observation, threat=observation.threat.model_copy(update={"knows": ("batch-size", "labels")}))
    assert attacked(blind).masks is None
