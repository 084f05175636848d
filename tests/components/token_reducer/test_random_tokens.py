"""random-tokens keeps the same places of every image, and all of them where it may."""

import pytest
import torch

from fedsim.core.errors import NotApplicable
from fedsim.core.nets.visual import visual_passes
from tests.models.vlms import examples, prepared, small_vlm


@torch.no_grad()
def test_places_are_those_that_were_drawn() -> None:
    model = prepared("random-tokens", kept=5)
    drawn = torch.randperm(16, generator=torch.Generator().manual_seed(1))[:5].sort().values.tolist()
    with visual_passes(model) as passes:
        model(*examples())
    assert all(patch.tolist() == [drawn] * 3 for patch in passes[0].patches)
    assert torch.equal(prepared("random-tokens", kept=16)(*examples()), small_vlm()(*examples()))


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(NotApplicable, match="component 'random-tokens': kept is 17, and an image has 16 visual tokens"):
        prepared("random-tokens", kept=17)
