"""InstaHide: what is mixed, signs, and encodings that give images away."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from defenses.batch.instahide import Instahide, InstahideConfig
from fedsim.core.types import Batch
from tests.defenses.batch.mixtures import CLASSES, distinct, mixed


@pytest.mark.paper_step("instahide", "mixture of k images with bounded coefficients")
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(2, 5), st.integers(0, 10_000))
def test_instahide_mixes_k_examples_below_the_bound_and_flips_signs(examples: int, images: int, seed: int) -> None:
    batch = distinct(examples)
    result = mixed(Instahide(InstahideConfig(images=images)), batch, seed)
    weights = result.inputs.view(examples, examples).abs()
    held = min(images, examples)
    assert (weights > 0).sum(1).tolist() == [held] * examples
    assert torch.allclose(weights.sum(1), torch.ones(examples), atol=1e-6)
    assert float(weights.max()) < (0.65 if held > 1 else 1.01)
    assert bool((weights.diagonal() > 0).all())
    assert torch.allclose(result.labels, weights @ nn.functional.one_hot(batch.labels, CLASSES).float(), atol=1e-6)


@pytest.mark.paper_step("instahide", "random sign per pixel")
def test_instahide_signs_are_fair_and_its_own_weight_is_largest_on_average() -> None:
    ones = Batch(torch.ones(4, 1, 50, 50), torch.zeros(4, dtype=torch.long))
    signs = mixed(Instahide(InstahideConfig()), ones).inputs.sign()
    assert float(signs.mean()) == pytest.approx(0.0, abs=0.03)
    assert not torch.equal(signs[0], signs[1])
    weights = torch.stack(
        [mixed(Instahide(InstahideConfig()), distinct(4), s).inputs.view(4, 4).abs() for s in range(300)]
    )
    mean = weights.mean(0)
    others = mean - mean.diagonal().diag()
    assert bool((mean.diagonal() > others.max(1).values).all())


def test_impossible_bounds_are_refused() -> None:
    with pytest.raises(ValidationError, match="hardly add up to 1"):
        InstahideConfig(images=2, largest=0.5)
