"""Arithmetic modulo a power of two, against Python's integers."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.ring import check_element, modular_sum, reduce


@pytest.mark.parametrize("bits", [1, 2, 8, 31, 32, 61, 62])
def test_integers_of_either_sign_are_reduced(bits: int) -> None:
    numbers = [0, 1, -1, 2**bits - 1, 2**bits, -(2**bits), 2**62, -(2**62)]
    assert reduce(torch.tensor(numbers), bits).tolist() == [number % 2**bits for number in numbers]


@pytest.mark.parametrize("bits", [2, 32, 61, 62])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_sums_of_the_largest_elements_do_not_overflow(bits: int, count: int) -> None:
    largest = 2**bits - 1
    vectors = [torch.tensor([largest, 1, 0]) for _ in range(count)]
    assert modular_sum(vectors, bits).tolist() == [count * largest % 2**bits, count % 2**bits, 0]
    assert vectors[0].tolist() == [largest, 1, 0]


def test_a_sum_of_none_is_empty() -> None:
    found = modular_sum([], 8)
    assert found.shape == (0,)
    assert found.dtype == torch.int64


def test_vectors_of_different_length_are_refused() -> None:
    with pytest.raises(FedsimError, match="got 3 and 2 entries"):
        modular_sum([torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)], 8)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("numbers", [[], [0], [255], [0, 128, 255]])
def test_elements_are_accepted(numbers: list[int], dtype: torch.dtype) -> None:
    check_element(torch.tensor(numbers, dtype=dtype), 8)


@pytest.mark.parametrize(
    "vector",
    [
        torch.tensor([-1, 5]),
        torch.tensor([0, 256]),
        torch.tensor([[0, 1]]),
        torch.tensor(3),
        torch.tensor([1.0]),
        torch.tensor([1], dtype=torch.int16),
    ],
)
def test_other_things_are_refused(vector: torch.Tensor) -> None:
    with pytest.raises(FedsimError, match=r"integer vector with entries in \[0, 2\*\*8\)"):
        check_element(vector, 8)
