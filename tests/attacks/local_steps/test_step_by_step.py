from dataclasses import replace

import pytest
import torch

from tests.attacks.solving import assert_refused, solve
from tests.federating import watched

NAME = "step-by-step"
KNOWS = ("batch-size", "dropout-rates", "input-statistics")


def steps(*, bias, steps=3, momentum=0.0, optimizer="sgd", rate=0.05, **tables):
    tables = {
        "data": {"name": "mnist5k", "train": 400, "test": 10},
        "model": {"name": "mlp", "width": 256, "depth": 2, "bias": bias, "dropout": 0.5},
        **tables,
    }
    settings = {"name": optimizer, "learning_rate": rate, **({"momentum": momentum} if momentum else {})}
    federation = {"algorithm": "fedavg", "local_steps": steps, "batch_size": 4, "optimizer": settings}
    return watched(federation=federation, knows=KNOWS, **tables)


def errors(found, batch):
    """Return the relative error of the nearest guess, of each example."""
    inputs = batch.inputs.double().flatten(1)
    return torch.cdist(inputs, found.double().flatten(1)).min(1).values / inputs.norm(dim=1)


@pytest.mark.parametrize(
    ("bias", "momentum"),
    [(True, 0.0), pytest.param(False, 0.0, marks=pytest.mark.slow), pytest.param(False, 0.9, marks=pytest.mark.slow)],
)
def test_images_of_every_step_come_back(bias, momentum):
    observation, truth, _ = steps(bias=bias, momentum=momentum)
    guess = solve(NAME, observation)
    assert guess.stop_reason == "all steps solved"
    assert guess.is_exact
    assert len(guess.inputs) == 12
    for step, batch in enumerate(truth.batches):  # in the order of the steps
        own = slice(4 * step, 4 * step + 4)
        assert float(errors(guess.inputs[own], batch).max()) < 1e-3
        assert sorted(guess.labels[own].tolist()) == sorted(batch.labels.tolist())


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_images_of_a_transformer_come_back_from_every_step(count):
    model = {"name": "vit-small", "patch": 8, "width": 256, "dropout": 0.5}
    tables = {"data": {"name": "foolbox-samples", "collection": "cifar10"}, "model": model}
    federation = {"algorithm": "fedavg", "local_steps": count, "batch_size": 1, "clients": 5}
    federation["optimizer"] = {"name": "sgd", "learning_rate": 0.2}
    observation, truth, _ = watched(federation=federation, knows=KNOWS, **tables)
    guess = solve(NAME, observation)
    assert len(guess.inputs) == count
    assert not guess.is_exact  # the order of the steps is open
    for batch in truth.batches:
        assert float(errors(guess.inputs, batch).max()) < 1e-3  # weights are subtracted in single precision


def test_refuses_with_the_reason():
    whole = steps(bias=True)[0]
    cases = {
        "a single step": replace(whole, local_steps=1),
        "'adam'": steps(bias=True, optimizer="adam")[0],
        "more than once": replace(whole, examples=6),
        "no linear layer sees": steps(bias=True, model={"name": "convnet"})[0],
        "no dropout behind": steps(bias=True, model={"name": "vit-small", "patch": 14, "dropout": 0.0})[0],
    }
    assert_refused(NAME, cases)
