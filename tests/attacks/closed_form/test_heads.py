"""The scale of a head is among the roots of its equation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from attacks.closed_form._heads import head_scales


@pytest.mark.paper_step("r-gap", "gradient at the head from the label: a scalar equation")
@given(classes=st.integers(2, 5), with_bias=st.booleans(), seed=st.integers(0, 200))
def test_the_scale_of_a_head_is_among_the_roots(classes, with_bias, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((classes, 6), generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64) if with_bias else None
    x = torch.randn(6, generator=generator, dtype=torch.float64)
    label = int(torch.randint(classes, (1,), generator=generator))
    k = (weight @ x + (0.0 if bias is None else bias)).softmax(0) - F.one_hot(torch.tensor(label), classes)
    length = float(k.norm())
    assume(length > 1e-6)  # below, rounding of 1 - p is felt
    found = head_scales(weight, bias, k / length, length * x, label)
    assert min(abs(one - length) for one in found) < 1e-8 * length
    for one in found:
        p = (weight @ x * (length / one) + (0.0 if bias is None else bias)).softmax(0)
        assert float((p - F.one_hot(torch.tensor(label), classes) - one * k / length).norm()) < 1e-3 * one


@given(st.integers(0, 200))
def test_two_classes_give_the_roots_of_the_logistic_equation(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((2, 5), generator=generator, dtype=torch.float64)
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    k = (weight @ x).softmax(0) - torch.tensor([1.0, 0.0])
    length = float(k.norm())
    product = float((weight * torch.outer(k, x)).sum())
    found = head_scales(weight, None, k / length, length * x, 0)
    margins = [float((weight[0] - weight[1]) @ x) * length / one for one in found]
    for margin in margins:
        assert -margin / (1 + math.exp(margin)) == pytest.approx(product, rel=1e-6)
    assert len(margins) == (1 if product > 0 else 2)
