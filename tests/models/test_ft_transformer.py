"""A transformer over the features of a row: dropout inside its blocks alone, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.core.types import InputSpec

SPEC = InputSpec((12,), 3, (0.5,) * 12, (0.2,) * 12)


def build(spec: InputSpec = SPEC, **settings: Any) -> nn.Module:
    method = registry.get("model", "ft-transformer")
    with seeding.isolate_randomness(3):
        return method.make(method.config(**settings), spec)


def test_rows_to_scores_that_the_contained_seed_decides() -> None:
    rows = torch.randn(2, 12)
    first, second = build().eval()(rows), build().eval()(rows)
    assert first.shape == (2, 3)
    assert torch.equal(first, second)


def test_dropout_acts_in_every_block_and_its_masks_can_be_injected() -> None:
    model, rows = build(dropout=0.3, blocks=2).train(), torch.randn(2, 12)
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        dropped = model(rows)
    assert len(recording.masks) == 2 * 4  # behind softmax, output, GELU and second layer
    assert {site.rate for site in recording.sites} == {0.3}
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        assert torch.equal(dropped, model(rows))
    with masks.disable_dropout():
        assert not torch.equal(dropped, model(rows))


def test_what_it_reads_and_how_wide_it_may_be() -> None:
    with pytest.raises(FedsimError, match="reads rows of a table, got inputs of shape"):
        build(InputSpec((1, 8, 8), 3, (0.5,), (0.2,)))
    with pytest.raises(FedsimError, match="a multiple of its 8 heads, got 12"):
        build(width=12)
