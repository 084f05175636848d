import hashlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core import seeding


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 1000))
def test_seeds_depend_on_every_coordinate_and_on_nothing_else(seed: int, round_: int, client: int) -> None:
    here = seeding.derive(seed, "dropout", round_, client)
    assert here == seeding.derive(seed, "dropout", round_, client)
    others = {
        seeding.derive(seed + 1, "dropout", round_, client),
        seeding.derive(seed, "batches", round_, client),
        seeding.derive(seed, "dropout", round_ + 1, client),
        seeding.derive(seed, "dropout", round_, client + 1),
    }
    assert here not in others
    assert len(others) == 4
    assert 0 <= here < 2**63


def test_contained_randomness_is_reproducible_and_leaves_no_trace() -> None:
    before = torch.random.get_rng_state()
    with seeding.isolate_randomness(11):
        first = torch.rand(3)
    with seeding.isolate_randomness(11):
        second = torch.rand(3)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


@given(
    st.integers(0, 2**70),
    st.sampled_from(["batches", "dropout", "defense 0", "x"]),
    st.integers(1, 4).flatmap(
        lambda length: st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * length), min_size=1, max_size=5)
    ),
)
def test_many_generators_at_once_equal_one_by_one(seed: int, purpose: str, paths: list[tuple[int, ...]]) -> None:
    together = seeding.generators(seed, purpose, paths)
    alone = [seeding.generator(seed, purpose, *path) for path in paths]
    assert [g.initial_seed() for g in together] == [g.initial_seed() for g in alone]
    assert torch.equal(torch.rand(3, generator=together[-1]), torch.rand(3, generator=alone[-1]))


def test_no_place_needs_no_generator() -> None:
    assert seeding.generators(1, "batches", []) == []


def test_the_hash_is_pinned() -> None:
    """A NumPy or torch that hashed or drew differently would change every result that was ever published."""
    assert seeding.derive(7, "dropout", 1, 2, 3) == 3600713418938539029
    assert int(np.random.SeedSequence([7, 2**40, 1]).generate_state(1, np.uint64)[0]) == 6500877191927561454
    drawn = torch.randint(2**31, (2,), generator=seeding.generator(7, "dropout", 1, 2, 3))
    assert drawn.tolist() == [558295695, 1328224068]


@given(st.integers(0, 2**70), st.lists(st.integers(0, 2**40), max_size=6))
def test_seeds_are_those_of_numpys_seed_sequence(seed: int, path: list[int]) -> None:
    label = int.from_bytes(hashlib.blake2b(b"dropout", digest_size=8).digest(), "little")
    (expected,) = np.random.SeedSequence([seed, label, *path]).generate_state(1, np.uint64)
    assert seeding.derive(seed, "dropout", *path) == int(expected) >> 1
