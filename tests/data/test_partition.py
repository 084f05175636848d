"""Properties of a partition."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from fedsim.data.partition import Scheme, partition
from fedsim.errors import FedsimError

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=120).map(torch.tensor)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def owned(shares: tuple[Tensor, ...]) -> list[int]:
    return torch.cat(shares).tolist()


@given(label_lists, st.integers(1, 30), st.integers(0, 9))
def test_iid_shares_are_equal_up_to_one(labels: Tensor, clients: int, seed: int) -> None:
    assume(clients <= len(labels))
    shares = partition(labels, clients, generator(seed), scheme="iid")
    assert sorted(owned(shares)) == list(range(len(labels)))
    sizes = [len(share) for share in shares]
    assert len(sizes) == clients
    assert max(sizes) - min(sizes) <= 1


@given(label_lists, st.integers(1, 30), st.integers(0, 9), st.floats(1e-6, 1e6))
def test_dirichlet_uses_everything_and_leaves_nobody_empty(
    labels: Tensor, clients: int, seed: int, alpha: float
) -> None:
    assume(clients <= len(labels))
    shares = partition(labels, clients, generator(seed), scheme="dirichlet", alpha=alpha)
    assert sorted(owned(shares)) == list(range(len(labels)))
    assert len(shares) == clients
    assert min(len(share) for share in shares) >= 1


@given(st.lists(st.integers(12, 30), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 9), st.integers(1, 6))
def test_by_class_gives_each_client_its_number_of_classes(
    counts: list[int], clients: int, seed: int, classes_per_client: int
) -> None:
    assume(classes_per_client <= len(counts))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    shares = partition(labels, clients, generator(seed), scheme="by-class", classes_per_client=classes_per_client)
    assert len(set(owned(shares))) == len(owned(shares))
    owners: dict[int, list[int]] = {}
    for share in shares:
        held = labels[share].bincount()
        assert len(held.nonzero()) == classes_per_client
        for label in held.nonzero().flatten().tolist():
            owners.setdefault(label, []).append(int(held[label]))
    for label, sizes in owners.items():
        assert sum(sizes) == counts[label]
        assert max(sizes) - min(sizes) <= 1
    numbers = [len(owners.get(label, [])) for label in range(len(counts))]
    assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "by-class"])
def test_only_the_generator_decides(scheme: Scheme) -> None:
    labels = torch.arange(200) % 10
    before = torch.random.get_rng_state()
    first, second, other = (partition(labels, 7, generator(seed), scheme=scheme) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(len(a) == len(b) and torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "by-class"])
def test_too_few_examples_name_the_bound(scheme: Scheme) -> None:
    with pytest.raises(FedsimError, match="3 training examples for 4 clients"):
        partition(torch.tensor([0, 1, 2]), 4, generator(), scheme=scheme)


def test_by_class_names_its_bounds() -> None:
    labels = torch.arange(20) % 2
    with pytest.raises(FedsimError, match="classes_per_client is 3, expected at most 2"):
        partition(labels, 2, generator(), scheme="by-class", classes_per_client=3)
    with pytest.raises(FedsimError, match=r"class 1 has 1 training examples.*expected at least 4"):
        partition(torch.tensor([0, 0, 0, 0, 1]), 4, generator(), scheme="by-class", classes_per_client=2)


def test_a_small_alpha_is_uneven_and_a_large_one_even() -> None:
    labels = torch.arange(2000) % 10

    def largest_class_share(alpha: float) -> float:
        shares = partition(labels, 10, generator(), scheme="dirichlet", alpha=alpha)
        return sum(float(labels[share].bincount().max() / len(share)) for share in shares) / len(shares)

    assert largest_class_share(0.05) > 0.5
    assert largest_class_share(1e4) < 0.15


def test_an_empty_client_gets_one_example_of_the_largest() -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    shares = partition(labels, 5, generator(), scheme="dirichlet", alpha=1e-6)
    assert sorted(len(share) for share in shares) == [1, 1, 1, 1, 6]
