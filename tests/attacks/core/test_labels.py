"""Label recovery against brute force: 200 random batches on random heads."""

import pytest
import torch

from attacks.core.labels import (
    _probe,
    _shared_output_layer,
    count_labels,
    distinct_labels,
    impact_labels,
    infer_labels,
    label_of_one,
    labels_of,
    negative_labels,
)
from tests.federating import watched

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


@pytest.mark.paper_step("idlg", "label from the last layer's gradient")
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


@pytest.mark.paper_step("gradinversion", "labels without repetition")
def test_distinct_labels_are_the_rows_with_the_smallest_entries() -> None:
    hits = 0
    for seed in range(200):
        numbers = torch.Generator().manual_seed(seed)
        features = torch.rand(4, FEATURES, generator=numbers)
        labels = torch.randperm(CLASSES, generator=numbers)[:4]
        error = torch.full((4, CLASSES), 0.1) - torch.nn.functional.one_hot(labels, CLASSES)
        hits += int(torch.equal(distinct_labels(error.T @ features / 4, 4), labels.sort().values))
    assert hits == 200


def test_impacts_tell_one_label_always_and_most_labels_of_batches_below_the_number_of_classes() -> None:
    shares: dict[int, list[float]] = {1: [], 8: []}
    for batch, seen in shares.items():
        for seed in range(200):
            labels, _, weight, _ = head(seed, batch)
            guess = impact_labels(weight, batch)
            assert len(guess) == batch
            counts = torch.minimum(guess.bincount(minlength=CLASSES), labels.bincount(minlength=CLASSES))
            seen.append(int(counts.sum()) / batch)
    assert min(shares[1]) == 1.0
    assert sum(shares[8]) / 200 > 0.8  # chance: 0.44


def test_impacts_are_exact_where_examples_lower_their_class_alike() -> None:
    """The repeated class must get its repeats one after the other: the impact belongs to the class just taken."""
    labels = torch.tensor([3, 3, 3, 3, 5, 5, 7, 7, 7])
    error = torch.full((9, CLASSES), 0.1) - torch.nn.functional.one_hot(labels, CLASSES)
    assert torch.equal(impact_labels(error.T @ torch.ones(9, FEATURES) / 9, 9), labels)


@pytest.mark.parametrize("batch", [2, 4])
def test_negative_entries_are_the_labels_of_few_distinct_examples(batch: int) -> None:
    for seed in range(200):
        numbers = torch.Generator().manual_seed(seed)
        labels = torch.randperm(CLASSES, generator=numbers)[:batch].sort().values
        probabilities = (0.2 * torch.randn((batch, CLASSES), generator=numbers)).softmax(1)
        gradient = (probabilities - torch.nn.functional.one_hot(labels, CLASSES)).mean(0)
        assert torch.equal((gradient < 0).nonzero()[:, 0], labels)
        assert torch.equal(negative_labels(gradient, batch), labels)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_label_of_a_real_client_is_inferred_through_dropout(bias: bool, dropout: float) -> None:
    model = {"name": "mlp", "width": 64, "depth": 2, "dropout": dropout, "bias": bias}
    for client in range(4):
        observation, truth, _ = watched(client=client, model=model, knows=("batch-size", "dropout-rates"))
        assert torch.equal(infer_labels(observation), truth.batches[0].labels)


def test_a_batch_of_a_real_client_is_counted() -> None:
    """Counts are n = B (p - db), so those from other probabilities p' are off by B |p' - p|_1 in sum.

    What is negative becomes 0, which brings them nearer by as much as the new scale takes them away at most. Largest
    remainders give the whole counts of sum B that are nearest to them. The true ones are no nearer, so both differ by
    at most twice that, and the labels that are wrong are half of the difference: at most B |p' - p|_1.
    """
    model, missed = {"name": "mlp", "width": 64, "depth": 2, "bias": True}, 0
    for client in range(4):
        observation, truth, _ = watched(
            client=client, model=model, federation={"batch_size": 8}, knows=("batch-size", "input-statistics")
        )
        batch = truth.batches[0]
        guess, true = infer_labels(observation).bincount(minlength=10), batch.labels.bincount(minlength=10)
        assumed, _ = _probe(observation, _shared_output_layer(observation)[0])
        actual = observation.model(batch.inputs).softmax(1).mean(0).detach()
        bound = 8 * float((assumed - actual).abs().sum())
        wrong = 8 - int(torch.minimum(guess, true).sum())
        assert wrong <= bound
        missed += wrong
    # 8 labels drawn at random from 10 classes share 3.5 with 8 others on average, so chance would miss 18 of 32.
    assert missed <= 4


@pytest.mark.parametrize(("rule", "least"), [("counting", 3), ("distinct", 3), ("negative", 3), ("impact", 2)])
def test_every_rule_answers_for_a_batch_of_a_real_client_and_leaves_the_model_alone(rule: str, least: int) -> None:
    for bias in (True, False):
        model = {"name": "mlp", "width": 64, "depth": 2, "bias": bias, "dropout": 0.5}
        observation, truth, _ = watched(
            model=model, federation={"batch_size": 4}, knows=("batch-size", "dropout-rates")
        )
        before = {name: tensor.clone() for name, tensor in observation.model.state_dict().items()}
        guess, true = infer_labels(observation, rule), truth.batches[0].labels  # type: ignore[arg-type]
        assert len(guess) == 4
        right = torch.minimum(guess.bincount(minlength=10), true.bincount(minlength=10)).sum()
        assert int(right) >= least  # impacts take features for equal and positive, which GELU's are not
        assert observation.model.training
        assert all(torch.equal(value, before[name]) for name, value in observation.model.state_dict().items())


def test_counting_draws_masks_like_the_client() -> None:
    """Large logits make probabilities depend on the masks; the probe must not use the full network."""
    model = {"name": "mlp", "width": 64, "depth": 2, "bias": True, "dropout": 0.5}
    observation, _, _ = watched(model=model, federation={"batch_size": 8}, knows=("batch-size", "dropout-rates"))
    seen: list[float] = []
    head_ = observation.model.get_submodule("7")
    handle = head_.register_forward_pre_hook(lambda _m, inputs: seen.append(float((inputs[0] == 0).double().mean())))
    infer_labels(observation)
    handle.remove()
    assert seen == [pytest.approx(0.5, abs=0.03)]


def test_granted_labels_are_used() -> None:
    observation, truth, _ = watched(federation={"batch_size": 4})
    assert torch.equal(labels_of(observation, "distinct"), truth.batches[0].labels)
