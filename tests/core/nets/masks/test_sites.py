"""Sites of dropout are found in call order, and tell what is expected of them."""

import pytest
import torch
from torch import nn

from fedsim.core.nets.masks import dropout_sites, expected_mask, rescaling_factor
from fedsim.core.types import DropoutSite
from tests.core.nets.masks.networks import Prefix, build


def test_every_kind_of_site_is_found_in_call_order_with_its_name() -> None:
    model, _ = build()
    sites = dropout_sites(model, (5, 8), 4)
    assert [site.name for site in sites] == [
        "model", "attention", "model", "encoder.self_attn", "encoder.dropout1", "encoder.dropout", "encoder.dropout2",
        "channels",
    ]  # fmt: skip
    assert sites[1].shape == (4, 2, 5, 5)
    assert sites[-1].shape == (4, 5, 1, 1)


def test_finding_sites_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    dropout_sites(model, (4,), 3)
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_prefix_site_tells_its_odds_and_its_expected_rate() -> None:
    (site,) = dropout_sites(Prefix(), (8,), 2)
    assert site.odds == Prefix.ODDS
    assert site.rate == pytest.approx(1.0 - 2.0 / 4.0)
    assert site.shape == (2, 4)


def test_the_expected_mask_of_a_prefix_falls_and_kept_entries_stay_as_they_are() -> None:
    (site,) = dropout_sites(Prefix(), (8,), 2)
    assert torch.allclose(expected_mask(site), torch.tensor([[1.0, 0.6, 0.3, 0.1]] * 2))
    assert rescaling_factor(site) == 1.0
    plain = DropoutSite(0, "x", 0.25, (2, 3))
    assert torch.equal(expected_mask(plain), torch.full((2, 3), 0.75))
    assert rescaling_factor(plain) == pytest.approx(1.0 / 0.75)
