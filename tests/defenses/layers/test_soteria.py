"""Soteria: one tensor, the right columns, and an informed attacker who does without it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from defenses.layers.soteria import telling_scores
from fedsim.core import registry, seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import LocalStep
from fedsim.core.hooks.attacks import without_unreliable_tensors
from fedsim.core.types import InputSpec, Observation, Truth
from fedsim.core.types.effects import UnreliableTensors
from fedsim.scenario import world as worlds
from tests.defenses.stepping import gradient, here, local_step, make, rules, small
from tests.federating import scenario, watched

Watched = Callable[..., tuple[Observation, Truth, worlds.World]]
SPEC = InputSpec((3, 32, 32), 10, (0.5,) * 3, (0.5,) * 3)


def changed(rate: float, local: LocalStep | None = None) -> dict[str, torch.Tensor]:
    local = local_step() if local is None else local
    return dict(make("soteria", rate=rate).on_gradient(gradient(local), here(local=local)))


@pytest.mark.paper_step("soteria", "columns of the last layer's weight gradient become zero")
@pytest.mark.parametrize(("rate", "columns"), [(0.2, 1), (0.4, 2), (0.5, 2), (1.0, 5)])
def test_only_columns_of_the_last_weight_become_zero(rate: float, columns: int) -> None:
    before, after = gradient(), changed(rate)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["last.weight"]
    zero = ~after["last.weight"].any(0)
    assert int(zero.sum()) == columns
    assert torch.equal(after["last.weight"][:, ~zero], before["last.weight"][:, ~zero])


@pytest.mark.paper_step("soteria", "score of each feature, as in the published code")
def test_the_scores_are_those_of_a_loop_over_features_and_examples() -> None:
    local = local_step()
    model = local.model

    def features(example: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(model.scale * model.first(example.flatten()))  # type: ignore[operator]

    expected = torch.zeros(5)
    for example in local.batch.inputs:
        slopes = torch.autograd.functional.jacobian(features, example).flatten(1)
        expected += slopes.norm(dim=1) / (features(example).detach().abs() + 0.1)
    assert torch.allclose(telling_scores(local, "last"), expected, rtol=1e-5)
    hidden = ~changed(0.4)["last.weight"].any(0)
    assert set(hidden.nonzero().flatten().tolist()) == set(expected.argsort()[:2].tolist())


def test_an_empty_batch_is_left_alone() -> None:
    local = local_step()
    empty = replace(local, batch=replace(local.batch, inputs=local.batch.inputs[:0], labels=local.batch.labels[:0]))
    zeros = {name: torch.zeros_like(t) for name, t in gradient().items()}
    assert make("soteria").on_gradient(zeros, here(local=empty)) == zeros


@pytest.mark.parametrize("model", ["mlp", "lenet", "convnet", "resnet18", "vit-small"])
def test_models_that_end_in_a_linear_layer_fit(model: str) -> None:
    method = registry.get("model", model)
    built = method.make(method.config.model_validate({}), SPEC)
    assert make("soteria").refuses(rules(), built) is None  # type: ignore[arg-type]


def test_others_are_refused_with_the_reason() -> None:
    frozen = small()
    frozen.last.requires_grad_(False)
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.LayerNorm(4)), nn.Flatten(), frozen):
        assert "does not end in a linear layer" in str(make("soteria").refuses(rules(), model))
    assert make("soteria").refuses(rules(), nn.Linear(3, 2)) is None
    fits = scenario(defenses=[{"name": "soteria"}], components=[{"name": "freeze", "parameters": ["7.*"]}])
    with pytest.raises(ScenarioError, match="defense 'soteria' does not fit: the model does not end"):
        worlds.build(fits).check()


def test_an_informed_attacker_has_the_objective_of_the_undefended_remaining_tensors() -> None:
    known = ("labels", "batch-size", "dropout-rates", "input-statistics")
    model = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0, "bias": True}
    soteria = [{"name": "soteria", "rate": 0.8}]
    plain, _, _ = watched(model=model, knows=known, threat={"visible_parameters": ["1.*", "4.*", "7.bias"]})
    naive, _, _ = watched(model=model, knows=known, defenses=soteria)
    told, _, _ = watched(model=model, knows=(*known, "defenses"), defenses=soteria)
    assert told.effects(UnreliableTensors) == (UnreliableTensors(("7.weight",)),)
    assert without_unreliable_tensors(told).hidden_parameters == {"7.weight"} == plain.hidden_parameters
    found = {name: attacked(one) for name, one in (("plain", plain), ("naive", naive), ("told", told))}
    assert found["told"].history == found["plain"].history
    assert found["told"].objective < 0.2 * found["naive"].objective


def test_labels_are_still_read_off_the_tensor_that_is_left_out() -> None:
    known = ("batch-size", "dropout-rates", "input-statistics", "defenses")
    told, truth, _ = watched(knows=known, defenses=[{"name": "soteria", "rate": 0.4}])
    assert torch.equal(attacked(told).labels, truth.batches[0].labels)


def attacked(observation: Observation) -> Any:
    method = registry.get("attack", "inverting-gradients")
    attack = method.make(method.config.model_validate({"max_iterations": 120, "schedule": "steps", "priors": []}))
    return attack(observation, seeding.generator(1, "attack"))


def test_the_look_inside_uses_the_masks_of_the_step_and_leaves_running_statistics() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    local = local_step(model, examples=4)
    from fedsim.core.nets.masks import dropout_sites

    sites = dropout_sites(model, (1, 2, 3), 4)
    mask = torch.ones(4, 8)
    mask[:, 3] = 0.0
    scores = telling_scores(replace(local, masks=(mask,), sites=sites), "5")
    assert float(scores[3]) == 0.0
    assert torch.equal(telling_scores(local, "5"), telling_scores(local, "5"))
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
