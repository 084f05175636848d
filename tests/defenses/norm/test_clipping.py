"""Clipping bounds the norm of the whole gradient."""

import pytest
import torch

from tests.defenses.applying import applied
from tests.defenses.stepping import gradient, make


@pytest.mark.paper_step("clipping", "norm of the whole gradient bounded")
def test_clipping_bounds_the_norm_scalars_included_and_leaves_short_gradients() -> None:
    clipped = applied(make("clipping", norm=1e-3), gradient())
    assert float(torch.stack([g.norm() for g in clipped.values()]).norm()) == pytest.approx(1e-3, rel=1e-5)
    assert abs(float(clipped["scale"])) < abs(float(gradient()["scale"]))
    long = applied(make("clipping", norm=1e6), gradient())
    assert all(torch.equal(long[key], gradient()[key]) for key in long)
