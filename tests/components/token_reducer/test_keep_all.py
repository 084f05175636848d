"""keep-all changes nothing."""

import torch

from tests.models.vlms import examples, prepared, small_vlm


@torch.no_grad()
def test_nothing_changes() -> None:
    assert torch.equal(prepared("keep-all")(*examples()), small_vlm()(*examples()))
