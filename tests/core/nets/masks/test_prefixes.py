"""Prefixes of features that are kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core import seeding
from fedsim.core.nets.masks import (
    KeptPrefixes,
    draw_masks,
    dropout_sites,
    inject_masks,
    keep_masks,
    prefix_dropout,
    prefix_mask,
    record_masks,
)
from fedsim.core.types import DropoutSite
from tests.core.nets.masks.networks import Prefix


def test_a_prefix_mask_is_one_for_all_examples_not_rescaled_and_replayed_bit_by_bit() -> None:
    with seeding.isolate_randomness(1):
        model, x = Prefix(), torch.randn(3, 8)
    lengths = set()
    for seed in range(12):
        with record_masks(model, torch.Generator().manual_seed(seed)) as recording:
            output = model(x)
        (mask,) = recording.masks
        assert mask.shape == (3, 4)
        assert torch.equal(mask, mask[:1].expand(3, 4))
        assert torch.equal(mask[0], mask[0].sort(descending=True).values)
        assert torch.equal(output, model.linear(x) * mask)
        with inject_masks(recording.sites, (mask,)):
            assert torch.equal(model(x), output)
        lengths.add(int(mask[0].sum()))
    assert len(lengths) > 1


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_length_is_drawn_as_torchs_multinomial_draws_it(weights: list[float], seed: int) -> None:
    odds = tuple((torch.tensor(weights, dtype=torch.float64) / sum(weights)).tolist())
    site = DropoutSite(0, "cut", 0.5, (2, len(odds)), odds)
    (mask,) = draw_masks([site], torch.Generator().manual_seed(seed), torch.zeros(()))
    drawn = torch.tensor(odds, dtype=torch.float64).multinomial(1, generator=torch.Generator().manual_seed(seed))
    assert mask.sum(1).tolist() == [1 + int(drawn)] * 2


def test_drawn_prefix_masks_are_what_a_client_draws() -> None:
    with seeding.isolate_randomness(1):
        model, x = Prefix(), torch.randn(2, 8)
    sites = dropout_sites(model, (8,), 2)
    for seed in range(5):
        with record_masks(model, torch.Generator().manual_seed(seed)) as recording:
            model(x)
        (drawn,) = draw_masks(sites, torch.Generator().manual_seed(seed), x)
        assert torch.equal(drawn, recording.masks[0])


@pytest.mark.parametrize("passes", [1, 3])
def test_lengths_drawn_before_the_forward_pass_are_those_drawn_in_it_however_often_it_runs(passes: int) -> None:
    with seeding.isolate_randomness(1):
        model, x = Prefix(), torch.randn(2, 8)
    sites = dropout_sites(model, (8,), 2)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        with keep_masks(generator) as expected:
            outputs = [model(x) for _ in range(passes)]
        with KeptPrefixes(sites, torch.Generator().manual_seed(seed)) as masks:
            again = [model(x) for _ in range(passes)]
        assert len(masks) == passes
        assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(again, outputs, strict=True))


def test_a_prefix_is_kept_in_training_alone_and_its_lengths_follow_the_odds() -> None:
    x = torch.ones(1, 4)
    assert torch.equal(prefix_dropout(x, Prefix.ODDS, training=False), x)
    with seeding.isolate_randomness(3):
        lengths = torch.stack([prefix_dropout(x, Prefix.ODDS).sum() for _ in range(4000)])
    shares = torch.bincount(lengths.long(), minlength=5)[1:] / 4000
    assert torch.allclose(shares, torch.tensor(Prefix.ODDS), atol=0.03)  # four standard errors
    assert prefix_mask(3, (2, 4), x).tolist() == [[1, 1, 1, 0]] * 2
