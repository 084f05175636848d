"""Secret orders depend on the private data, the seed, the purpose and the salt, and on nothing else."""

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.types import Batch
from fedsim.threat.orders import secret_generator, secret_order

DATA = Batch(torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 2, 1]))


def order(private: Batch = DATA, seed: int = 3, purpose: str = "rows", *path: int, salt: bytes = b"") -> list[int]:
    return secret_order(50, private, seed, purpose, *path, salt=salt).tolist()


def test_the_same_data_seed_and_salt_give_the_same_permutation() -> None:
    assert order() == order(Batch(DATA.inputs.clone(), DATA.labels.clone()))
    assert sorted(order()) == list(range(50))
    assert order(salt=b"a") == order(salt=b"a")


@pytest.mark.parametrize(
    "other",
    [
        order(Batch(DATA.inputs.flip(0), DATA.labels)),
        order(Batch(DATA.inputs, DATA.labels.flip(0))),
        order(Batch(DATA.inputs.reshape(3, 4), DATA.labels)),
        order(Batch(DATA.inputs, DATA.labels.int())),
        order(seed=4),
        order(DATA, 3, "columns"),
        order(DATA, 3, "rows", 1),
        order(salt=b"a"),
        secret_order(50, (DATA.inputs,), 3, "rows").tolist(),
    ],
)
def test_every_argument_changes_the_permutation(other: list[int]) -> None:
    assert other != order()


def test_the_seed_alone_does_not_give_it() -> None:
    public = torch.randperm(50, generator=seeding.generator(3, "rows")).tolist()
    assert order() != public
    assert secret_generator(DATA, 3, "rows").initial_seed() != seeding.derive(3, "rows")


def test_half_precision_and_tensors_that_are_not_contiguous_are_hashed() -> None:
    half = torch.arange(6.0).to(torch.bfloat16).reshape(2, 3).T
    assert order(Batch(half, torch.zeros(3))) == order(Batch(half.contiguous(), torch.zeros(3)))
    assert order(Batch(half, torch.zeros(3))) != order(Batch(half.flip(0), torch.zeros(3)))
