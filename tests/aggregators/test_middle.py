"""Rules that look at single coordinates take them block by block."""

import pytest
import torch

from fedsim.aggregators import _middle, krum
from tests.federating import a_round


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum"])
def test_blocks_of_coordinates_make_no_difference(rule, contributions, monkeypatch, name):
    vectors = torch.randn(7, 100, generator=torch.Generator().manual_seed(2))
    whole = rule(name).combine(contributions(vectors), a_round())
    monkeypatch.setattr(_middle, "_BLOCK", 9)
    monkeypatch.setattr(krum, "_BLOCK", 9)
    assert torch.equal(rule(name).combine(contributions(vectors), a_round()), whole)
