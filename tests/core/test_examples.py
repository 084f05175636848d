import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.examples import unique_examples
from fedsim.core.types import Batch

STEPS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=2, max_size=5)


def batch(numbers: list[int]) -> Batch:
    """Examples told apart by number: 4 has the inputs of 3 and another label."""
    inputs = torch.tensor([3.0 if number == 4 else float(number) for number in numbers]).view(-1, 1, 1, 1)
    return Batch(inputs.expand(-1, 2, 3, 3).clone(), torch.tensor(numbers))


@given(STEPS)
def test_every_example_once_in_the_order_of_first_use(steps: list[list[int]]) -> None:
    found = unique_examples([batch(numbers) for numbers in steps])
    expected = list(dict.fromkeys(number for numbers in steps for number in numbers))
    assert found.labels.tolist() == expected
    assert torch.equal(found.inputs, batch(expected).inputs)


def test_a_single_batch_is_returned_as_it_is() -> None:
    only = batch([2, 2, 1])
    assert unique_examples([only]) is only
