"""Each small number lies where its sentence says: above what rounding leaves, below what it must tell apart."""

import torch
from torch import nn

from attacks.core.gradient_distance import gradient_distance
from attacks.core.tolerances import EXACT, LEAST, MATCHES, SURELY_KEPT, TINY, TWO_WAYS
from fedsim.core import seeding
from tests.attacks.solving import toy


def test_rounding_of_single_precision_counts_as_nothing_and_a_further_example_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(40, 2, generator=generator), torch.randn(2, 30, generator=generator)
    one, two = (torch.linalg.svdvals((left[:, :k] @ right[:k]).double()) for k in (1, 2))
    assert float(one[1] / one[0]) < EXACT
    assert float(two[1] / two[0]) > EXACT


def test_rounding_matches_a_gradient_and_one_wrong_label_or_mask_entry_does_not() -> None:
    with seeding.isolate_randomness(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 4))
    observation, truth = toy(model, (3, 4, 4), 8, dtype=torch.float32)
    (batch,), (masks,) = truth.batches, truth.masks
    rounded = batch.inputs * (1.0 + 2e-7)
    assert gradient_distance(observation, rounded, batch.labels, masks) < MATCHES
    label = batch.labels.clone()
    label[0] = (label[0] + 1) % 4
    assert gradient_distance(observation, batch.inputs, label, masks) > MATCHES
    other = masks[0].clone()
    other[0, 0] = 1.0 - other[0, 0]
    assert gradient_distance(observation, batch.inputs, batch.labels, (other,)) > MATCHES
    assert EXACT < SURELY_KEPT


def test_the_least_divisors_are_normal_numbers_that_turn_nothing_over_nothing_into_zero() -> None:
    for least, dtype in ((TINY, torch.float32), (LEAST, torch.float64)):
        number = torch.tensor(least, dtype=dtype)
        assert float(number) > torch.finfo(dtype).smallest_normal
        assert float(torch.zeros((), dtype=dtype) / number) == 0.0


def test_double_precision_in_two_ways_is_the_same_number() -> None:
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = values.exp().sum().log(), values.logsumexp(0)
    assert abs(float(one / other) - 1.0) < TWO_WAYS
