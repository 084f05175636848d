"""Properties of a partition."""

import hashlib
import sys
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.data.partition import Scheme, describe_partition, partition

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=120).map(torch.tensor)
labels_and_clients = label_lists.flatmap(
    lambda labels: st.tuples(st.just(labels), st.integers(1, min(30, len(labels))))
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


def owned(shares: Sequence[Tensor]) -> list[int]:
    return torch.cat(list(shares)).tolist()


@given(labels_and_clients, st.integers(0, 9))
def test_iid_shares_are_equal_up_to_one(both: tuple[Tensor, int], seed: int) -> None:
    labels, clients = both
    shares = partition(labels, clients, generator(seed), scheme="iid")
    assert sorted(owned(shares)) == list(range(len(labels)))
    sizes = [len(share) for share in shares]
    assert len(sizes) == clients
    assert max(sizes) - min(sizes) <= 1


@given(labels_and_clients, st.integers(0, 9), st.floats(1e-6, 1e6))
def test_dirichlet_uses_everything_and_leaves_nobody_empty(both: tuple[Tensor, int], seed: int, alpha: float) -> None:
    labels, clients = both
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


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_the_generator_decides(scheme: Scheme) -> None:
    labels, users = torch.arange(200) % 10, torch.arange(200) // 8
    before = torch.random.get_rng_state()
    first, second, other = (partition(labels, 7, generator(seed), scheme=scheme, users=users) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(len(a) == len(b) and torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "resampled"])
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


@pytest.mark.parametrize(
    ("scheme", "clients", "settings", "expected"),
    [
        ("iid", 7, {}, "7ac5cb28a51ef609"),
        ("dirichlet", 7, {"alpha": 0.5}, "66658ae58bb3bc5a"),
        ("dirichlet", 60, {"alpha": 0.01}, "e7671535b0ad8625"),
        ("by-class", 7, {"classes_per_client": 3}, "8149d3037f1046dd"),
    ],
)
def test_the_shares_of_a_seed_stay_what_they_were(
    scheme: Scheme, clients: int, settings: dict[str, Any], expected: str
) -> None:
    """A record can be run again."""
    digest = hashlib.sha256()
    for share in partition(torch.arange(300) * 7 % 10, clients, generator(5), scheme=scheme, **settings):
        digest.update(len(share).to_bytes(8, "little"))
        digest.update(share.numpy().astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == expected


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(1, 13), st.integers(0, 9))
def test_by_user_keeps_users_whole_and_deals_them_evenly(names: list[int], clients: int, seed: int) -> None:
    users = torch.tensor(names) * 7 - 3
    assume(clients <= len(users.unique()))
    shares = partition(torch.zeros_like(users), clients, generator(seed), scheme="by-user", users=users)
    assert sorted(owned(shares)) == list(range(len(users)))
    held = [set(users[share].tolist()) for share in shares]
    assert sum(map(len, held)) == len(users.unique())
    numbers = [len(own) for own in held]
    assert len(numbers) == clients
    assert max(numbers) - min(numbers) <= 1


def test_by_user_needs_users_and_enough_of_them() -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(FedsimError, match=r"partition\.scheme is 'by-user', but the data set has no users"):
        partition(labels, 2, generator(), scheme="by-user")
    with pytest.raises(FedsimError, match="2 users for 3 clients"):
        partition(labels, 3, generator(), scheme="by-user", users=torch.tensor([4, 4, 9, 9, 9, 4]))


@given(labels_and_clients, st.integers(0, 9), st.floats(1e-6, 1e6))
def test_quantity_skew_uses_everything_and_leaves_nobody_empty(
    both: tuple[Tensor, int], seed: int, alpha: float
) -> None:
    labels, clients = both
    shares = partition(labels, clients, generator(seed), scheme="quantity-skew", alpha=alpha)
    assert sorted(owned(shares)) == list(range(len(labels)))
    assert len(shares) == clients
    assert min(len(share) for share in shares) >= 1


def test_quantity_skew_has_the_sizes_of_a_dirichlet_draw_and_classes_left_to_chance() -> None:
    """A share of Dirichlet(a, ..., a) over n clients has variance (n - 1) / (n^2 (n a + 1))."""
    labels = torch.arange(20_000) % 2
    drawn = [partition(labels, 5, generator(seed), scheme="quantity-skew", alpha=0.5) for seed in range(400)]
    sizes = np.array([[len(share) for share in shares] for shares in drawn]) / len(labels)
    assert sizes.mean(axis=0) == pytest.approx(np.full(5, 0.2), abs=0.04)
    assert sizes.var() == pytest.approx(4 / (25 * 3.5), rel=0.1)
    ones = [float(labels[share].double().mean()) for shares in drawn for share in shares if len(share) > 1000]
    assert np.mean(ones) == pytest.approx(0.5, abs=0.005)
    assert max(abs(one - 0.5) for one in ones) < 5 * 0.5 / 1000**0.5


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 500), st.integers(0, 9))
def test_resampled_gives_every_client_distinct_examples(examples: int, size: int, clients: int, seed: int) -> None:
    assume(size <= examples)
    labels = torch.zeros(examples, dtype=torch.int64)
    shares = partition(labels, clients, generator(seed), scheme="resampled", examples_per_client=size)
    assert len(shares) == clients
    for client in {0, clients // 2, clients - 1}:
        share = shares[client]
        assert share.dtype == torch.int64
        assert len(set(share.tolist())) == len(share) == size
        assert set(share.tolist()) <= set(range(examples))
        assert torch.equal(shares[client], share)
        assert torch.equal(shares[client - clients], share)
    assert len(list(shares)) == clients


@pytest.mark.slow
def test_resampled_draws_every_example_equally_often_in_any_order_and_for_each_client_anew() -> None:
    shares = partition(
        torch.zeros(20, dtype=torch.int64), 20_000, generator(), scheme="resampled", examples_per_client=4
    )
    drawn = torch.stack(list(shares))
    expected = 20_000 / 20
    for place in range(4):
        counts = drawn[:, place].bincount(minlength=20)
        assert float(((counts - expected) ** 2 / expected).sum()) < 43.8  # chi-squared, 19 degrees, p = 0.001
    # Neighbours share each example with probability 4 / 20.
    common = (drawn[:-1, :, None] == drawn[1:, None, :]).sum(dim=(1, 2)).double()
    assert float(common.mean()) == pytest.approx(4 * 4 / 20, abs=0.03)


def test_a_million_resampled_clients_cost_nothing_until_they_are_asked() -> None:
    shares = partition(torch.arange(1437) % 10, 1_000_000, generator(), scheme="resampled", examples_per_client=10)
    assert len(shares) == 1_000_000
    assert sum(map(sys.getsizeof, vars(shares).values())) < 1000
    assert not torch.equal(shares[999_999], shares[999_998])
    assert [share.tolist() for share in shares[5:7]] == [shares[5].tolist(), shares[6].tolist()]
    with pytest.raises(IndexError):
        shares[1_000_000]


def test_resampled_names_its_bound() -> None:
    with pytest.raises(FedsimError, match=r"partition\.examples_per_client is 5, expected at most 4"):
        partition(torch.zeros(4, dtype=torch.int64), 9, generator(), scheme="resampled", examples_per_client=5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_description_counts_what_the_shares_hold(scheme: Scheme) -> None:
    labels, users = torch.arange(500) * 3 % 5, torch.arange(500) // 4
    shares = partition(labels, 50, generator(), scheme=scheme, users=users)
    record = describe_partition(shares, labels, scheme=scheme, class_names=tuple("abcdef"))
    sizes = sorted(len(share) for share in shares)
    assert (record.scheme, record.clients, record.clients_measured) == (scheme, 50, 50)
    assert (record.examples_min, record.examples_max) == (sizes[0], sizes[-1])
    assert record.examples_median == (sizes[24] + sizes[25]) / 2
    assert record.class_names == tuple("abcdef")
    assert [client for client, _ in record.class_counts] == list(range(40))
    for client, counts in record.class_counts:
        assert counts == tuple(labels[shares[client]].tolist().count(label) for label in range(6))


def test_a_description_of_a_million_drawn_clients_says_how_many_it_measured() -> None:
    labels = torch.arange(1437) % 10
    shares = partition(labels, 1_000_000, generator(), scheme="resampled", examples_per_client=10)
    record = describe_partition(shares, labels, scheme="resampled", class_names=tuple("0123456789"))
    assert (record.clients, record.clients_measured) == (1_000_000, 1000)
    assert (record.examples_min, record.examples_median, record.examples_max) == (10, 10.0, 10)
    assert all(sum(counts) == 10 for _, counts in record.class_counts)
    assert type(record).model_validate_json(record.model_dump_json()) == record


def test_numbers_with_a_fraction_are_no_classes() -> None:
    labels = torch.rand(20, generator=torch.Generator().manual_seed(0))
    shares = partition(labels, 4, torch.Generator().manual_seed(0), scheme="dirichlet")
    assert torch.cat(list(shares)).sort().values.tolist() == list(range(20))
    told = describe_partition(shares, labels, scheme="dirichlet", class_names=("price",))
    assert sum(sum(counts) for _, counts in told.class_counts) == 20
