"""Signs with and without scale."""

import pytest
import torch

from tests.defenses.rounding.rounding import VALUES, sent


@pytest.mark.paper_step("sign", "sign of each entry")
def test_signs_with_and_without_scale() -> None:
    assert torch.equal(sent("sign", {"w": VALUES})["w"], torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0, 1.0]))
    scaled = sent("sign", {"w": VALUES}, scaled=True)["w"]
    assert torch.allclose(scaled, VALUES.abs().mean() * VALUES.sign())
