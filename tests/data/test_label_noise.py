from collections.abc import Callable

import pytest
import torch
from scipy import stats

from fedsim.core.errors import ScenarioError
from fedsim.data._facts import CIFAR10
from fedsim.data.label_noise import noisy_labels
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

Build = Callable[..., Scenario]


def labels_of(*counts: int) -> torch.Tensor:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("rate", [0.0, 0.29, 0.4, 1.0])
def test_every_class_gets_exactly_its_share_of_wrong_labels(rate: float) -> None:
    labels = labels_of(100, 7, 0, 33)
    noisy = noisy_labels(labels, "abcd", "symmetric", rate, torch.Generator().manual_seed(1))
    for label, count in enumerate((100, 7, 0, 33)):
        own = noisy[labels == label]
        assert int((own != label).sum()) == round(rate * 100) * count // 100


def test_symmetric_wrong_labels_are_even_over_the_other_classes() -> None:
    labels = labels_of(*[2000] * 5)
    noisy = noisy_labels(labels, "abcde", "symmetric", 0.5, torch.Generator().manual_seed(2))
    for label in range(5):
        wrong = noisy[(labels == label) & (noisy != label)]
        counts = [int((wrong == other).sum()) for other in range(5) if other != label]
        assert stats.chisquare(counts).pvalue > 1e-3


def test_asymmetric_wrong_labels_are_the_pairs_of_cifar10_and_else_the_next_class() -> None:
    names = CIFAR10.class_names
    labels = labels_of(*[10] * 10)
    noisy = noisy_labels(labels, names, "asymmetric", 0.3, torch.Generator().manual_seed(3))
    seen = {(names[a], names[b]) for a, b in zip(labels.tolist(), noisy.tolist(), strict=True) if a != b}
    pairs = {("truck", "automobile"), ("bird", "airplane"), ("deer", "horse"), ("cat", "dog"), ("dog", "cat")}
    assert seen == pairs
    assert int((noisy != labels).sum()) == 15
    digits = noisy_labels(labels, "0123456789", "asymmetric", 1.0, torch.Generator())
    assert torch.equal(digits, (labels + 1) % 10)


def test_a_scenario_spoils_training_labels_alone_and_the_seed_says_which(scenario: Build) -> None:
    clean = worlds.build(scenario())
    first, again = (worlds.build(scenario(label_noise={"rate": 0.4})) for _ in range(2))
    other = worlds.build(scenario(label_noise={"rate": 0.4}, seed=4))
    true, noisy = clean.data.dataset.train.labels, first.data.dataset.train.labels
    expected = sum(int(0.4 * int((true == label).sum()) + 1e-9) for label in range(10))
    assert int((noisy != true).sum()) == expected
    assert torch.equal(noisy, again.data.dataset.train.labels)
    assert not torch.equal(noisy, other.data.dataset.train.labels)
    assert torch.equal(first.data.dataset.test.labels, clean.data.dataset.test.labels)
    assert all(torch.equal(a, b) for a, b in zip(first.data.shares, clean.data.shares, strict=True))
    assert clean.data.dataset.train.labels is true


def test_a_wrong_table_is_named(scenario: Build) -> None:
    with pytest.raises(ScenarioError, match=r"label_noise\.rate"):
        scenario(label_noise={"rate": 1.5})
    with pytest.raises(ScenarioError, match=r"label_noise\.schema"):
        scenario(label_noise={"rate": 0.5, "schema": "symmetric"})
