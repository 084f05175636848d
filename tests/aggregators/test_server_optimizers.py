"""Our optimizers on the mean update are the server optimizers of the literature; Flower's FedAdam is not quite."""

import math

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from fedsim.core import registry
from tests.federating import a_round

CLIENTS, ROUNDS, SIZE = 5, 4, 40
EXAMPLES = [3, 1, 4, 1, 5]
START = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# A strategy learns the weights when it picks its cohort; of no cohort it asks nothing else.
NO_COHORT = {"fraction_train": 0.0}


def changes(round_):
    """What the clients add to the weights, in this round."""
    numbers = torch.Generator().manual_seed(100 + round_)
    return torch.randn(CLIENTS, SIZE, generator=numbers, dtype=torch.float64) * 10 ** torch.linspace(-3, 0, SIZE)


def flowers(strategy, flower, first_round=1):
    """Return the weights after every round of a strategy."""
    weights, path = START, []
    for round_ in range(ROUNDS):
        strategy.configure_train(first_round + round_, ArrayRecord({"w": weights}), ConfigRecord(), None)
        replies = [{"w": weights + change} for change in changes(round_)]
        weights = flower(strategy, replies, EXAMPLES, round_=first_round + round_)["w"]
        path.append(weights)
    return torch.stack(path)


def ours(rule, contributions, name, **settings):
    """Return the weights after every round of an optimizer that gets the mean update for a gradient."""
    method = registry.get("component", name)
    optimizer = method.make(method.config.model_validate(settings))
    weights, state, path = {"w": START.clone()}, {}, []
    for round_ in range(ROUNDS):
        mean = rule("mean").combine(contributions(-changes(round_), EXAMPLES), a_round())
        optimizer.step(weights, {"w": mean}, state)
        path.append(weights["w"].clone())
    return torch.stack(path)


def algorithm_2(eta, beta1, beta2, tau):
    """FedAdam as Reddi et al. 2020 write it, except that v starts at 0 where they ask for at least tau squared."""
    weights, m, v, path = START.numpy().copy(), np.zeros(SIZE), np.zeros(SIZE), []
    for round_ in range(ROUNDS):
        delta = np.average(changes(round_).numpy(), axis=0, weights=EXAMPLES)
        m = beta1 * m + (1 - beta1) * delta
        v = beta2 * v + (1 - beta2) * delta**2
        weights = weights + eta * m / (np.sqrt(v) + tau)
        path.append(torch.from_numpy(weights))
    return torch.stack(path)


@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.9), (0.3, 0.5), (1.0, 0.0)])
def test_sgd_with_momentum_is_fedavgm(rate, momentum, rule, contributions, flower):
    theirs = flowers(FedAvgM(**NO_COHORT, server_learning_rate=rate, server_momentum=momentum), flower)
    path = ours(rule, contributions, "sgd", learning_rate=rate, momentum=momentum)
    assert torch.allclose(path, theirs, rtol=0, atol=1e-12)


def test_adam_without_bias_correction_is_algorithm_2(rule, contributions):
    path = ours(rule, contributions, "adam", learning_rate=0.1, beta1=0.9, beta2=0.99, epsilon=1e-3,
                bias_correction=False)  # fmt: skip
    assert torch.allclose(path, algorithm_2(0.1, 0.9, 0.99, 1e-3), rtol=0, atol=1e-12)


def test_flowers_fedadam_is_algorithm_2_only_when_its_correction_has_faded(flower):
    """It multiplies the step by a bias correction that the paper does not have; tau and v are otherwise as there."""
    settings = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    expected = algorithm_2(0.1, 0.9, 0.99, 1e-3)
    assert torch.allclose(
        flowers(FedAdam(**NO_COHORT, **settings), flower, first_round=10**6), expected, rtol=0, atol=1e-12
    )
    first = flowers(FedAdam(**NO_COHORT, **settings), flower)[0] - START
    assert torch.allclose(first, (expected[0] - START) * math.sqrt(1 - 0.99**2) / (1 - 0.9**2), rtol=1e-9, atol=0)


def test_flowers_fedadam_corrects_its_bias_as_if_one_more_round_had_passed(rule, contributions, flower):
    """Rounds that count from 0 would give Adam's own correction; Flower counts from 1 and adds 1 again."""
    settings = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-30}
    path = ours(rule, contributions, "adam", learning_rate=0.1, beta1=0.9, beta2=0.99, epsilon=1e-30)
    assert torch.allclose(flowers(FedAdam(**NO_COHORT, **settings), flower, first_round=0), path, rtol=0, atol=1e-12)
    moved, due = flowers(FedAdam(**NO_COHORT, **settings), flower)[0] - START, path[0] - START
    ratio = math.sqrt((1 - 0.99**2) / (1 - 0.99)) * (1 - 0.9) / (1 - 0.9**2)
    assert torch.allclose(moved, ratio * due, rtol=1e-9, atol=0)
    assert ratio < 0.75


def test_flowers_fedadam_steps_counters_and_statistics_like_weights(flower):
    """So buffers belong behind the aggregator alone, not behind the server's optimizer."""
    before = {"count": torch.tensor([10]), "variance": torch.tensor([0.05])}
    replies = [{"count": torch.tensor([15]), "variance": torch.tensor([0.01])}] * 2
    assert {name: float(value) for name, value in flower(FedAvg(), replies).items()} == pytest.approx(
        {"count": 15.0, "variance": 0.01}
    )
    strategy = FedAdam(**NO_COHORT, eta=0.1)
    strategy.configure_train(1, ArrayRecord(before), ConfigRecord(), None)
    after = flower(strategy, replies)
    assert after["count"].dtype.is_floating_point
    assert float(after["count"]) < 10.1
    assert float(after["variance"]) < 0
