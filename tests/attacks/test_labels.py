"""Label recovery against brute force: 200 random batches on random heads."""

from collections.abc import Callable

import pytest
import torch

from attacks._labels import count_labels, distinct_labels, infer_labels, label_of_one
from fedsim.types import Observation, Truth
from fedsim.world import World

CLASSES, FEATURES = 10, 32


def head(seed: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels (sorted), mean probabilities, weight and bias gradient of a softmax head on positive features."""
    numbers = torch.Generator().manual_seed(seed)
    weight = torch.randn(CLASSES, FEATURES, generator=numbers, dtype=torch.float64) * 0.2
    features = torch.rand(batch, FEATURES, generator=numbers, dtype=torch.float64)
    labels = torch.randint(CLASSES, (batch,), generator=numbers)
    probabilities = (features @ weight.T).softmax(1)
    error = (probabilities - torch.nn.functional.one_hot(labels, CLASSES)) / batch
    return labels.sort().values, probabilities.mean(0), error.T @ features, error.sum(0)


@pytest.mark.parametrize("with_bias", [True, False])
def test_one_label_is_always_right(with_bias: bool) -> None:
    for seed in range(200):
        labels, _, weight, bias = head(seed, 1)
        assert torch.equal(label_of_one(weight, bias if with_bias else None), labels)


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_counts_are_exact_with_the_true_mean_probabilities(batch: int) -> None:
    for seed in range(200):
        labels, probabilities, _, bias = head(seed, batch)
        assert torch.equal(count_labels(bias, probabilities, batch), labels)


def test_distinct_labels_are_the_rows_with_the_smallest_entries() -> None:
    hits = 0
    for seed in range(200):
        numbers = torch.Generator().manual_seed(seed)
        features = torch.rand(4, FEATURES, generator=numbers)
        labels = torch.randperm(CLASSES, generator=numbers)[:4]
        error = torch.full((4, CLASSES), 0.1) - torch.nn.functional.one_hot(labels, CLASSES)
        hits += int(torch.equal(distinct_labels(error.T @ features / 4, 4), labels.sort().values))
    assert hits == 200


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_label_of_a_real_client_is_inferred_through_dropout(
    watched: Callable[..., tuple[Observation, Truth, World]], bias: bool, dropout: float
) -> None:
    model = {"name": "mlp", "width": 64, "depth": 2, "dropout": dropout, "bias": bias}
    for client in range(4):
        observation, truth, _ = watched(client=client, model=model, knows=("batch-size", "dropout-rates"))
        assert torch.equal(infer_labels(observation), truth.batches[0].labels)


def test_distinct_labels_of_a_real_client(watched: Callable[..., tuple[Observation, Truth, World]]) -> None:
    model = {"name": "mlp", "width": 64, "depth": 2, "bias": True}
    distinct = 0
    for client in range(4):
        observation, truth, _ = watched(client=client, model=model, federation={"batch_size": 3}, knows=("batch-size",))
        true = truth.batches[0].labels.sort().values
        if len(true.unique()) == len(true):
            distinct += 1
            assert torch.equal(infer_labels(observation, "distinct"), true)
    assert distinct


def test_a_batch_of_a_real_client_is_counted(watched: Callable[..., tuple[Observation, Truth, World]]) -> None:
    model = {"name": "mlp", "width": 64, "depth": 2, "bias": True}
    observation, truth, _ = watched(model=model, federation={"batch_size": 8}, knows=("batch-size",))
    guess, true = infer_labels(observation).bincount(minlength=10), truth.batches[0].labels.bincount(minlength=10)
    assert int(torch.minimum(guess, true).sum()) >= 7
