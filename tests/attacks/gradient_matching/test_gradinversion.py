"""GradInversion: its priors beside sums written out, and seeds that pull each other together."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.core.matching.regularizers import StatisticsDistance, group_distance, running_statistics
from fedsim.core import seeding
from fedsim.core.hooks import Attack
from fedsim.core.masks import inject_masks
from fedsim.core.types import Observation, Reconstruction, Truth
from fedsim.metrics.image import score_items

Toy = Callable[..., tuple[Observation, Truth]]
Named = Callable[..., Attack[Any]]


def normalised(dropout: float = 0.25) -> nn.Module:
    """A network with batch normalisation whose running statistics are those of some noise."""
    with seeding.isolate_randomness(1):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Sigmoid(),
            nn.Dropout(dropout),
            nn.Conv2d(6, 4, 3, 2, padding=1),
            nn.BatchNorm2d(4),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(64, 4),
        )
        for _ in range(30):
            model(torch.randn(16, 1, 8, 8))
    return model


def plain() -> nn.Module:
    with seeding.isolate_randomness(1):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.GELU(), nn.Dropout(0.25), nn.Linear(40, 4))


def attacked(attack_named: Named, observation: Observation, **settings: object) -> Reconstruction:
    attack = attack_named("gradinversion", **{"max_iterations": 30, "restarts": 2, **settings})
    return attack(observation, seeding.generator(3, "attack"))


def test_statistics_are_compared_layer_by_layer_under_the_masks(toy: Toy) -> None:
    observation, truth = toy(normalised(0.5), (1, 8, 8), 3)
    model, inputs, masks = observation.model, truth.batches[0].inputs, truth.masks[0]
    ours = StatisticsDistance(observation, observation.sites)(inputs[None], (masks[0][None],))
    expected, hidden = 0.0, inputs
    with torch.no_grad(), inject_masks(observation.sites, masks):
        for layer in model:  # type: ignore[union-attr]
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                values = hidden.transpose(0, 1).flatten(1)
                expected += float((values.mean(1) - layer.running_mean).norm())
                expected += float((values.var(1, correction=0) - layer.running_var).norm())
                hidden = torch.nn.functional.batch_norm(hidden, None, None, layer.weight, layer.bias, training=True)
            else:
                hidden = layer(hidden)
    assert float(ours) == pytest.approx(expected, rel=1e-9)


def test_statistics_leave_the_observed_model_alone(toy: Toy) -> None:
    observation, truth = toy(normalised(), (1, 8, 8), 2)
    before = {name: value.clone() for name, value in observation.model.state_dict().items()}
    StatisticsDistance(observation, observation.sites)(truth.batches[0].inputs[None], ())
    assert all(torch.equal(value, before[name]) for name, value in observation.model.state_dict().items())
    assert len(running_statistics(observation.model)) == 2


def best_group_distance(rows: Tensor) -> Tensor:
    """Of seeds (S, B, ...) whose images all have one label, against the first by brute force."""
    registered = []
    for row in rows:
        orders = [list(order) for order in permutations(range(rows.shape[1]))]
        registered.append(row[min(orders, key=lambda order: float((row[order] - rows[0]).square().sum()))])
    stacked = torch.stack(registered)
    return (stacked - stacked.mean(0)).square().flatten(1).sum(1)


def test_seeds_are_registered_within_a_label_before_they_are_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((4, 1, 5, 5), generator=generator)
    noise = 0.1 * torch.randn((3, 4, 1, 5, 5), generator=generator)
    orders = [[0, 1, 2, 3], [2, 0, 1, 3], [1, 2, 0, 3]]
    rows = torch.stack([images[order] for order in orders]) + noise
    labels = torch.tensor([6, 6, 6, 6])
    assert torch.allclose(group_distance(rows, [0, 0, 0], [labels]), best_group_distance(rows))
    apart = group_distance(rows, [0, 0, 0], [torch.tensor([1, 2, 3, 4])])
    assert torch.allclose(apart, (rows - rows.mean(0)).square().flatten(1).sum(1))


def test_victims_are_no_seeds_of_each_other() -> None:
    rows = torch.randn((4, 2, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    labels = [torch.tensor([1, 2]), torch.tensor([0, 3])]
    ours = group_distance(rows, [1, 0, 1, 0], labels)
    for victim, members in ((1, [0, 2]), (0, [1, 3])):
        assert torch.allclose(ours[members], group_distance(rows[members], [victim] * 2, labels))
    assert group_distance(rows[:1], [0], labels).tolist() == [0.0]


def test_the_pull_of_the_group_brings_seeds_together(toy: Toy, attack_named: Named) -> None:
    """With next to no gradient term, seeds end apart without the group term and together with it."""
    observation, _ = toy(plain(), (1, 6, 6), 1)
    ends: dict[float, float] = {}
    for weight in (0.0, 1.0):
        attack = attack_named(
            "gradinversion",
            **{"max_iterations": 60, "restarts": 3, "gradient_weight": 1e-9, "group_weight": weight, "langevin": 0.0},
            total_variation=0.0,
            norm_weight=0.0,
        )
        search = attack.plan([observation])  # type: ignore[attr-defined]
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


def test_a_batch_is_recovered_and_every_seed_has_masks_of_its_own(toy: Toy, attack_named: Named) -> None:
    observation, truth = toy(plain(), (1, 6, 6), 2)
    observation = replace(observation, labels=truth.batches[0].labels)
    found = attacked(attack_named, observation, max_iterations=600, restarts=3, boxed=False)
    assert min(item.values["psnr"] for item in score_items(found, truth.batches[0], observation.spec).items) > 25
    assert found.masks is not None
    assert found.facts["starts"] == 3
    assert any("no running statistics" in note for note in found.notes)


def test_running_statistics_help_and_the_note_is_gone(toy: Toy, attack_named: Named) -> None:
    observation, truth = toy(normalised(0.0), (1, 8, 8), 2)
    observation = replace(observation, labels=truth.batches[0].labels)
    found = attacked(attack_named, observation, max_iterations=20)
    without = attacked(attack_named, observation, max_iterations=20, statistics_weight=0.0)
    distance = StatisticsDistance(observation, observation.sites)
    assert float(distance(found.inputs[None], ())) < float(distance(without.inputs[None], ()))
    assert found.notes == ("gradients compared by the general path",)


def test_unknown_rates_mean_a_search_without_dropout(toy: Toy, attack_named: Named) -> None:
    observation, _ = toy(plain(), (1, 6, 6), 1)
    blind = replace(observation, threat=observation.threat.model_copy(update={"knows": ("batch-size", "labels")}))
    assert attacked(attack_named, blind).masks is None
