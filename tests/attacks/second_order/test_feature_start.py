"""Starts from what the head read of every example of a batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.core.client_gradient import client_gradient
from attacks.core.head_features import features_of
from attacks.second_order._feature_start import starts_from_features
from fedsim.core.nets.layer_calls import layer_inputs
from fedsim.core.types import Observation
from tests.attacks.second_order.solved import distances, equations_of, lenet, solve, toy
from tests.attacks.solving import sending


def observe_labels(observation: Observation, inputs: Tensor, labels: Tensor) -> Observation:
    """Return the observation of a client without dropout that has these labels."""
    tensors = client_gradient(observation, inputs, labels, None)
    return sending(observation, tensors, labels=labels)


def read_features(observation: Observation, inputs: Tensor) -> tuple[str, Tensor]:
    name = [name for name, module in observation.model.named_modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad(), layer_inputs(observation.model, [name]) as seen:
        observation.model(inputs)
    return name, seen[0][1]


def test_a_start_has_the_features_of_the_examples() -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), 3, classes=10)
    inputs, labels = truth.batches[0].inputs, torch.tensor([1, 4, 7])
    seen = observe_labels(observation, inputs, labels)
    found = features_of(seen, labels, torch.Generator().manual_seed(0))
    assert found[0] == read_features(seen, inputs)[0]
    spread = float((read_features(seen, inputs)[1] - read_features(seen, inputs)[1].mean(0)).norm())
    assert float((found[1] - read_features(seen, inputs)[1]).norm()) < 1e-3 * spread
    start = next(starts_from_features(seen, equations_of(seen), labels, torch.Generator().manual_seed(0)))
    own = read_features(seen, start.view(inputs.shape).to(inputs))[1]
    assert float((own - found[1]).norm()) < 1e-2 * spread  # damped steps end where they gain little


@pytest.mark.parametrize(
    ("labels", "precision", "restarts"),
    [
        ([0, 2, 5, 9], torch.float64, 1),
        pytest.param([3, 3], torch.float64, 1, marks=pytest.mark.slow),
        pytest.param([1, 3, 3, 8], torch.float32, 3, marks=pytest.mark.slow),
    ],
)
def test_a_batch_is_solved(labels: list[int], precision: torch.dtype, restarts: int) -> None:
    """Single precision blurs the difference of two examples of one label, and may take several starts."""
    observation, truth = toy(lenet(1, 8, 12), (1, 8, 8), len(labels), classes=10, dtype=precision)
    batch = replace(truth.batches[0], labels=torch.tensor(labels))
    guess = solve(observe_labels(observation, batch.inputs, batch.labels))
    assert float(distances(guess, replace(truth, batches=(batch,))).max()) < 1e-3
    assert guess.is_exact
    assert guess.diagnostics["restarts"] <= restarts


def test_nothing_starts_where_one_example_or_its_head_is_missing() -> None:
    single, _ = toy(lenet(1, 8, 8), (1, 8, 8), 1, classes=10)
    batch, _ = toy(lenet(1, 8, 8), (1, 8, 8), 2, classes=10)
    name = read_features(batch, torch.zeros(1, 1, 8, 8).to(next(batch.model.parameters())))[0]
    tensors = {key: tensor for key, tensor in batch.update.tensors.items() if not key.startswith(name)}
    headless = sending(batch, tensors)
    for observation, count in ((single, 1), (headless, 2)):
        labels = torch.arange(count)
        starts = starts_from_features(observation, equations_of(observation), labels, torch.Generator().manual_seed(0))
        assert next(starts, None) is None
