"""Where a search begins."""

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.core.matching.starts import first_inputs


@pytest.mark.paper_step("cpl", "patterned start")
def test_starts() -> None:
    def start(kind: Any, shape: tuple[int, ...] = (2, 3, 10, 7)) -> Tensor:
        return first_inputs(kind, shape, 4, torch.Generator().manual_seed(1))

    assert not start("grey").any()
    assert float(start("normal", (1, 1, 100, 100)).std()) == pytest.approx(1.0, abs=0.05)
    patterned = start("patterned")
    assert patterned.shape == (2, 3, 10, 7)
    assert torch.equal(patterned[..., 4:8, :], patterned[..., :4, :])
    assert torch.equal(patterned[..., 4:7], patterned[..., :3])
    assert not torch.equal(patterned[0], patterned[1])
    colour = start("colour")
    assert torch.equal(colour, colour[..., :1, :1].expand_as(colour))
    assert len(colour[..., 0, 0].unique()) == 6
    assert start("patterned", (2, 5)).shape == (2, 5)
