"""The proximal term against its closed forms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core import registry
from fedsim.core.hooks import HookContext
from fedsim.core.types import Batch
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

Build = Callable[..., Scenario]


def fedprox(mu: float) -> Any:
    method = registry.get("component", "fedprox")
    return method.make(method.config.model_validate({"mu": mu}))


@pytest.mark.paper_step("fedprox", "proximal term")
def test_value_and_gradient_are_those_of_the_formula() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    received = {name: torch.randn(t.shape, generator=generator) for name, t in model.named_parameters()}
    here = HookContext(1, 0, 0, torch.Generator(), received)
    term = fedprox(0.3).loss(model, Batch(torch.zeros(1, 3), torch.zeros(1)), torch.zeros(1, 2), here)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    apart = torch.cat([(p.detach() - received[name]).reshape(-1) for name, p in trainable.items()])
    assert term.shape == ()
    assert float(term.detach()) == pytest.approx(0.15 * float(apart @ apart), rel=1e-5)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(term, list(trainable.values()))])
    torch.testing.assert_close(gradient, 0.3 * apart)


@pytest.mark.parametrize("federation", [{"algorithm": "fedsgd"}, {"algorithm": "fedavg", "local_steps": 1}])
def test_one_step_from_the_received_weights_is_unchanged(scenario: Build, federation: dict[str, Any]) -> None:
    plain = worlds.build(scenario(federation={"batch_size": 4, **federation}))
    near = worlds.build(
        scenario(federation={"batch_size": 4, **federation}, components=[{"name": "fedprox", "mu": 5.0}])
    )
    first, _ = local_training(plain, plain.models.first_weights, 1, 0)
    second, _ = local_training(near, near.models.first_weights, 1, 0)
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@pytest.mark.paper_step("fedprox", "several local steps with the term")
def test_several_steps_equal_a_plain_loop_and_drift_less_the_larger_mu(scenario: Build) -> None:
    drifts = []
    for mu in (0.0, 0.1, 1.0, 4.0):
        world = worlds.build(
            scenario(
                model={"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0},
                federation={"algorithm": "fedavg", "local_steps": 12, "batch_size": 8},
                components=[{"name": "fedprox", "mu": mu}],
            )
        )
        update, _ = local_training(world, world.models.first_weights, 1, 0)
        model = world.models.new()
        descent = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in world.data.batches(1, 0):
            descent.zero_grad()
            nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
            for name, p in model.named_parameters():
                assert p.grad is not None
                p.grad += mu * (p.detach() - world.models.first_weights[name])
            descent.step()
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(
                world.models.first_weights[name] - update.tensors[name], tensor, rtol=1e-5, atol=1e-6
            )
        drifts.append(float(world.models.layout.flat(update.tensors, update.buffers).norm()))
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[3] < 0.8 * drifts[0]
