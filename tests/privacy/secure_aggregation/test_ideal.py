"""What a trusted party adds up, and when it says nothing."""

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.ideal import ideal_aggregate
from fedsim.privacy.secure_aggregation.outcome import Aborted, check_cohort, check_survivors

CONFIG = SecureAggregation(levels=4, modulus_bits=4)


def vector(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def test_it_is_the_modular_sum_and_who_took_part_in_order() -> None:
    aggregate = ideal_aggregate([(5, vector(15, 1)), (2, vector(3, 0)), (9, vector(0, 2))], 4, CONFIG)
    assert aggregate.total.tolist() == [2, 3]
    assert aggregate.participants == (2, 5, 9)


@pytest.mark.parametrize("bad", [vector(16, 0), vector(-1, 0), torch.tensor([0.5, 1.0]), vector(1, 2, 3)])
def test_what_is_no_element_is_refused(bad: Tensor) -> None:
    with pytest.raises(FedsimError):
        ideal_aggregate([(0, vector(1, 1)), (1, bad)], 2, CONFIG)


def test_two_clients_hide_each_other_and_one_is_hidden_by_nobody() -> None:
    check_cohort(2)
    with pytest.raises(Aborted, match="at least 2 clients, got 1"):
        check_cohort(1)
    with pytest.raises(Aborted, match="at least 2 clients"):
        ideal_aggregate([(0, vector(1))], 1, CONFIG)


def test_as_many_must_be_left_as_the_threshold_says() -> None:
    check_survivors(4, 6, CONFIG, "uploaded")
    with pytest.raises(Aborted, match=r"3 of 6 clients uploaded, but at least 4 must. Lower the threshold \(0.666667"):
        check_survivors(3, 6, CONFIG, "uploaded")
    with pytest.raises(Aborted, match="1 of 3 clients uploaded"):
        ideal_aggregate([(0, vector(1))], 3, CONFIG)
