"""Feature CutMix against pasting entry by entry, and in the passes in which it must do nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.nets.step_draws import Showing, get_current_draws
from fedsim.core.types import Draws
from fedsim.federation import cohort
from fedsim.federation.client import local_training
from fedsim.metrics.matching import objective_at_truth
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World

Build = Callable[..., Scenario]
OWN = {"name": "feature-cutmix", "at": "3", "size": [4, 4], "probability": 1.0}
TABLES: dict[str, Any] = {"model": {"name": "convnet", "dropout": 0.25}, "federation": {"batch_size": 5}}


def world_with(scenario: Build, **settings: Any) -> World:
    return worlds.build(scenario(**TABLES, components=[{**OWN, **settings}]))


def pasted(maps: Tensor, draws: Draws) -> Tensor:
    """The maps with boxes pasted entry by entry."""
    rows = []
    for own, partner, box in zip(
        maps, draws["feature-cutmix.partners"], draws["feature-cutmix.map-boxes"], strict=True
    ):
        top, bottom, left, right = box.tolist()
        entries = [
            [
                (maps[partner] if top <= row < bottom and left <= column < right else own)[:, row, column]
                for column in range(4)
            ]
            for row in range(4)
        ]
        rows.append(torch.stack([torch.stack(line, -1) for line in entries], 1))
    return torch.stack(rows)


@pytest.mark.paper_step("feature-cutmix", "box of a feature map pasted, labels by its share")
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_client_trains_on_maps_that_are_pasted_as_its_draws_say(scenario: Build, per_sample: bool) -> None:
    world = world_with(scenario, per_sample=per_sample)
    world.check()
    for client in range(4):
        update, truth = local_training(world, world.models.first_weights, 1, client)
        (draws,), (private,), (trained,), (masks,) = truth.draws, truth.original_batches, truth.batches, truth.masks
        assert torch.equal(trained.inputs, private.inputs)
        boxes, weights = draws["feature-cutmix.map-boxes"], draws["feature-cutmix.weights"]
        for box, weight, soft, label, partner in zip(
            boxes, weights, trained.labels, private.labels, draws["feature-cutmix.partners"], strict=True
        ):
            top, bottom, left, right = box.tolist()
            assert float(weight) == 1.0 - (bottom - top) * (right - left) / 16
            expected = float(weight) * F.one_hot(label, 10) + (1 - float(weight)) * F.one_hot(
                private.labels[partner], 10
            )
            assert torch.allclose(soft, expected, atol=1e-7)
        model = world.models.new()
        layers = list(model)  # type: ignore[call-overload]
        hidden = pasted(nn.Sequential(*layers[:4])(private.inputs), draws)
        features = nn.Sequential(*layers[4:9])(hidden) * masks[0] / 0.75
        loss = F.cross_entropy(layers[10](features), trained.labels)
        names = [name for name, _ in model.named_parameters()]
        for name, gradient in zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            assert torch.allclose(gradient, update.tensors[name], atol=1e-6), name


def test_weights_keep_their_names_and_other_passes_let_features_pass(scenario: Build) -> None:
    world, plain = world_with(scenario, per_sample=True), worlds.build(scenario(**TABLES))
    assert list(world.models.first_weights) == list(plain.models.first_weights)
    _, truth = local_training(world, world.models.first_weights, 1, 0)
    model, twin = world.models.new(), plain.models.new()
    inputs = truth.original_batches[0].inputs
    assert get_current_draws() == {}
    assert torch.equal(model.eval()(inputs), twin.eval()(inputs))
    with Showing(truth.draws[0]):
        assert torch.equal(model(inputs), twin(inputs))  # evaluation
        assert not torch.equal(model[:4].train()(inputs), twin[:4](inputs))  # type: ignore[index]
    assert torch.equal(model[:4](inputs), twin[:4](inputs))  # type: ignore[index]


def test_the_same_arguments_give_the_same_bits_and_the_truth_explains_the_gradient(scenario: Build) -> None:
    world = world_with(scenario, per_sample=True)
    (first, truth), (second, again) = (local_training(world, world.models.first_weights, 2, 1) for _ in range(2))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert all(torch.equal(truth.draws[0][name], again.draws[0][name]) for name in truth.draws[0])
    model = world.models.load_weights(world.models.first_weights)
    sites = dropout_sites(model, truth.batches[0].inputs.shape[1:], len(truth.batches[0]))
    at_truth = objective_at_truth(model, first, truth, cross_entropy, sites)
    assert at_truth == pytest.approx(0.0, abs=1e-9)


def test_switched_off_it_is_plain_training_with_labels_as_probabilities(scenario: Build) -> None:
    world, plain = world_with(scenario, probability=0.0), worlds.build(scenario(**TABLES))
    ours, _ = local_training(world, world.models.first_weights, 1, 0)
    theirs, _ = local_training(plain, plain.models.first_weights, 1, 0)
    for name, tensor in theirs.tensors.items():
        assert torch.allclose(ours.tensors[name], tensor, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"size": [8, 8]}, r"'3' returns maps of 4 x 4\. Set size = \[4, 4\]"),
        ({"at": "8"}, r"it needs maps \(channels, height, width\), but '8' returns \(256,\)"),
    ],
)
def test_a_layer_without_such_maps_is_refused(scenario: Build, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        world_with(scenario, **settings).check()


def test_what_does_not_fit_is_refused_before_training(scenario: Build) -> None:
    with pytest.raises(NotApplicable, match=r"no layer is called '33'"):
        world_with(scenario, at="33").models.new()
    with pytest.raises(ScenarioError, match="it mixes pairs of maps of a batch, but a batch holds 1"):
        worlds.build(scenario(**{**TABLES, "federation": {"batch_size": 1}}, components=[OWN])).check()
    for others, name in (([{"name": "cutmix"}], "CutMix"), ([OWN], "FeatureCutMix")):
        with pytest.raises(ScenarioError, match=f"nothing else may change or read a batch, .*: {name}"):
            worlds.build(scenario(**TABLES, components=[OWN, *others])).check()
    with pytest.raises(FedsimError, match="feature-cutmix, which depends on the whole batch"):
        cohort.check(world_with(scenario))
    private = [{"name": "dp-sgd", "noise_multiplier": 1.0, "clip": 1.0}]
    tables = {**TABLES, "federation": {"batch_size": 4, "sampling": "poisson"}}
    with pytest.raises(ScenarioError, match="FeatureCutMix works on whole batches"):
        worlds.build(scenario(**tables, components=[OWN], defenses=private)).check()
