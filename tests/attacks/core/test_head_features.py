"""Inputs of a last layer, separated by its gradient, against the truth."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attacks.core.head_features import Head, separate_features
from fedsim.core.time_budget import DeadlineReached, time_limit


def mix(inputs: Tensor, labels: Tensor, classes: int, has_bias: bool, seed: int = 0) -> Head:
    """Return a random layer with the gradient of its mean cross-entropy, by autograd."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, inputs.shape[1], generator=generator, dtype=torch.float64) / inputs.shape[1] ** 0.5
    bias = torch.randn(classes, generator=generator, dtype=torch.float64) if has_bias else None
    leaves = [own.requires_grad_() for own in (weight, bias) if own is not None]
    gradients = torch.autograd.grad(F.cross_entropy(F.linear(inputs, weight, bias), labels), leaves)
    return Head(
        weight.detach(), None if bias is None else bias.detach(), gradients[0], gradients[1] if has_bias else None
    )


def draw(size: int, width: int, seed: int = 1) -> Tensor:
    return torch.rand(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(size=st.integers(1, 6), width=st.integers(8, 40), has_bias=st.booleans(), seed=st.integers(0, 1000))
def test_inputs_of_distinct_labels_come_back(size: int, width: int, has_bias: bool, seed: int) -> None:
    inputs, labels = draw(size, width, seed), torch.arange(size)
    found = separate_features(mix(inputs, labels, 10, has_bias, seed), labels, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.inputs, inputs, rtol=1e-5, atol=1e-5)  # a search that ends at EXACT
    assert found.residual < 1e-5


@pytest.mark.parametrize("has_bias", [True, False])
def test_inputs_of_one_label_come_back_where_their_scores_differ(has_bias: bool) -> None:
    inputs, labels = 3.0 * draw(4, 30), torch.tensor([2, 2, 5, 7])
    found = separate_features(mix(inputs, labels, 10, has_bias), labels, torch.Generator().manual_seed(0))
    distances = torch.cdist(found.inputs, inputs)
    assert float(distances.min(1).values.max()) < 1e-4 * float(inputs.norm())
    assert sorted(distances.argmin(1).tolist()) == [0, 1, 2, 3]
    assert distances.argmin(1)[2:].tolist() == [2, 3]


def test_errors_are_those_of_the_scores() -> None:
    inputs, labels = draw(3, 20), torch.tensor([4, 1, 0])
    head = mix(inputs, labels, 6, has_bias=True)
    found = separate_features(head, labels, torch.Generator().manual_seed(0))
    expected = (F.linear(inputs, head.weight, head.bias).softmax(1) - F.one_hot(labels, 6)) / 3
    torch.testing.assert_close(found.errors, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.errors.T @ found.inputs, head.gradient, rtol=1e-5, atol=1e-5)


def test_inputs_that_share_their_scores_share_their_answer() -> None:
    inputs = draw(2, 20)
    inputs[1] = inputs[0]
    found = separate_features(mix(inputs, torch.tensor([3, 3]), 5, has_bias=True), torch.tensor([3, 3]), _new())
    torch.testing.assert_close(found.inputs, inputs, rtol=1e-5, atol=1e-5)


def test_no_further_start_begins_once_the_time_is_over() -> None:
    labels = torch.arange(3)
    head = mix(draw(3, 20), labels, 10, has_bias=True)
    with time_limit(1e-9), pytest.raises(DeadlineReached):
        separate_features(head, labels, _new())


def test_as_many_examples_as_classes_are_not_separated() -> None:
    inputs, labels = draw(4, 20), torch.arange(4)
    assert separate_features(mix(inputs, labels, 4, has_bias=True), labels, _new()) is None


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_gradient_with_noise_is_not_separated(has_bias: bool) -> None:
    inputs, labels = draw(3, 20), torch.arange(3)
    head = mix(inputs, labels, 8, has_bias)
    noisy = head.gradient + 0.01 * torch.randn(head.gradient.shape, generator=_new(), dtype=torch.float64)
    assert separate_features(head._replace(gradient=noisy), labels, _new()) is None


def test_a_gradient_of_higher_rank_than_the_batch_is_given_up_before_any_start() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    head = mix(draw(4, 20), labels, 10, has_bias=True)
    with time_limit(1e-9):  # a start would raise DeadlineReached
        assert separate_features(head, labels[:3], _new()) is None


def _new() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_inputs_of_one_label_are_told_apart_as_far_as_rounding_allows() -> None:
    inputs, labels = 0.5 + 0.01 * draw(4, 600), torch.tensor([2, 5, 5, 7])
    head = mix(inputs, labels, 10, has_bias=True)
    rounded = head._replace(gradient=head.gradient.float().double())
    found = separate_features(rounded, labels, _new())
    difference = inputs[1] - inputs[2]
    error = min(float((found.inputs[1] - found.inputs[2] - sign * difference).norm()) for sign in (1.0, -1.0))
    assert 1e-3 < found.blur < 0.2
    assert error < 2.0 * found.blur * float(difference.norm())
    torch.testing.assert_close(found.inputs[1:3].mean(0), inputs[1:3].mean(0), rtol=1e-5, atol=1e-5)


def test_rounding_that_hides_a_difference_leaves_the_mean() -> None:
    inputs, labels = 0.5 + 1e-3 * draw(4, 600), torch.tensor([2, 5, 5, 7])
    head = mix(inputs, labels, 10, has_bias=True)
    found = separate_features(head._replace(gradient=head.gradient.float().double()), labels, _new())
    assert found.blur == 1.0
    torch.testing.assert_close(found.inputs[1:3].mean(0), inputs[1:3].mean(0), rtol=1e-5, atol=1e-5)
