import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim import seeding


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
    with seeding.contained(11):
        first = torch.rand(3)
    with seeding.contained(11):
        second = torch.rand(3)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
