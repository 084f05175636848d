"""The experiment on computable noise: what counts as computed, the order that the server reads, and its cells."""

import pytest
import torch

from benchmarks._experiments import Budget
from benchmarks.computable_noise import (
    LONG,
    SHORT,
    Case,
    cleaned_fraction,
    computable_noise,
    is_computed,
    ordered_tensors,
)
from fedsim.core.types import Update

TENSORS = {"b": torch.tensor([3.0, 0.0]), "a": torch.tensor([[0.0, 4.0]])}
UPDATE = Update("gradient", TENSORS, {}, 1, 0.0)


@pytest.mark.parametrize(("off", "counts"), [(0.9e-4, True), (1.1e-4, False)])
def test_an_update_counts_as_computed_below_a_ten_thousandth_of_the_noise_on_all_coordinates(off, counts):
    errors = {"a": 8 * off * torch.ones(1, 2, dtype=torch.float64), "b": 8 * off * torch.ones(2, dtype=torch.float64)}
    cleaned = {name: TENSORS[name] - errors[name] for name in ("a", "b")}
    assert is_computed(cleaned, TENSORS, 8.0) is counts
    assert cleaned_fraction(cleaned, TENSORS, 8.0) == float(counts)
    assert not is_computed(cleaned, TENSORS, 4.0)


def test_one_noisy_tensor_is_enough_to_fail_whatever_the_order_of_tensors():
    partly = {"a": TENSORS["a"], "b": TENSORS["b"] + torch.tensor([0.0, 8.0])}
    assert not is_computed(partly, TENSORS, 8.0)
    assert cleaned_fraction(partly, TENSORS, 8.0) == 0.75


def test_only_reversed_cases_read_tensors_in_the_opposite_order():
    assert list(ordered_tensors(UPDATE, Case("MLP", 1, 8.0))) == ["b", "a"]
    turned = ordered_tensors(UPDATE, Case("MLP", 1, 8.0, is_reversed=True))
    assert list(turned) == ["a", "b"]
    assert all(torch.equal(turned[name], TENSORS[name]) for name in TENSORS)


def test_settings_tell_cases_apart_and_pictures_are_read_from_single_examples_of_the_mlp():
    cases = [case for group in LONG.values() for case in group]
    assert len({case.setting for case in cases}) == len(cases)
    assert Case("MLP", 1, 8.0, "chacha20").setting == "MLP, B = 1, noise 8, ChaCha20"
    assert {(case.client, case.batch_size) for case in cases if case.has_picture} == {("MLP", 1)}


def test_there_is_a_cell_for_each_group_and_the_cost_of_the_remedy():
    assert set(computable_noise(Budget())) == {*SHORT, "cost"}
    assert set(computable_noise(Budget(full=True))) == {*LONG, "cost"}
