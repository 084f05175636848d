import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.masks import (
    KeptPrefixes,
    draw_masks,
    dropout_sites,
    expected_mask,
    inject_masks,
    keep_masks,
    prefix_dropout,
    prefix_mask,
    record_masks,
    rescaling,
    without_dropout,
)
from fedsim.core.types import DropoutSite


class Everything(nn.Module):
    """Module, functional, channel and attention dropout in one model."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.linear = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=rate, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=rate, batch_first=True)
        self.channels = nn.Dropout2d(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.linear(x), self.rate, training=self.training)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + F.scaled_dot_product_attention(x, x, x, dropout_p=self.rate if self.training else 0.0, is_causal=True)
        return self.channels(self.encoder(x)[..., None]).flatten(1)


def build(rate: float = 0.3) -> tuple[Everything, torch.Tensor]:
    with seeding.isolate_randomness(5):
        return Everything(rate), torch.randn(4, 5, 8)


def gradients(model: nn.Module, output: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(output.square().sum(), list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("training", [True, False])
def test_given_masks_reproduce_output_and_gradients_bit_by_bit(training: bool) -> None:
    model, x = build()
    with record_masks(model, torch.Generator().manual_seed(1)) as recording:
        output = model(x)
    expected = gradients(model, output)
    model.train(training)
    with inject_masks(recording.sites, tuple(recording.masks)):
        repeated = model(x)
    assert torch.equal(output, repeated)
    for ours, theirs in zip(gradients(model, repeated), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_masks_of_ones_scale_by_the_keep_rate_and_are_no_identity() -> None:
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.2))
    model.register_parameter("anchor", nn.Parameter(torch.zeros(1)))
    x = torch.rand(3, 7)
    sites = dropout_sites(model, (7,), 3)
    with inject_masks(sites, (torch.ones(3, 7),)):
        assert torch.allclose(model(x), x / 0.8)


def test_without_dropout_equals_plain_evaluation() -> None:
    model, x = build()
    model.eval()
    plain = model(x)
    with without_dropout():
        assert torch.allclose(model(x), plain, atol=1e-6)
    with without_dropout():
        assert torch.allclose(model.train()(x), plain, atol=1e-6)


def test_attention_with_masks_and_weights_equals_the_fused_kernel() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x, allowed = torch.randn(2, 4, 8), torch.ones(4, 4).tril().bool()
    plain, weights = attention(x, x, x, attn_mask=~allowed)
    with without_dropout():
        ours, our_weights = attention(x, x, x, attn_mask=~allowed)
    assert torch.allclose(plain, ours, atol=1e-6)
    assert torch.allclose(weights, our_weights, atol=1e-6)


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


@given(rate=st.floats(0.05, 0.95), batch=st.integers(1, 4), width=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_recorded_masks_are_zero_or_one_and_of_the_activations_shape(rate: float, batch: int, width: int) -> None:
    model = nn.Sequential(nn.Linear(3, width), nn.Dropout(rate))
    with record_masks(model, torch.Generator().manual_seed(batch)) as recording:
        model(torch.ones(batch, 3))
    (mask,) = recording.masks
    assert mask.shape == (batch, width)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_drawn_masks_keep_the_stated_share() -> None:
    model = nn.Sequential(nn.Linear(3, 4000), nn.Dropout(0.25))
    (mask,) = draw_masks(dropout_sites(model, (3,), 2), torch.Generator().manual_seed(0), torch.empty(0))
    assert abs(float(mask.mean()) - 0.75) < 0.02


def test_recording_draws_nothing_from_the_global_generator() -> None:
    model, x = build()
    before = torch.random.get_rng_state()
    with record_masks(model, torch.Generator().manual_seed(1)):
        model(x)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_mask_of_the_wrong_shape_names_its_site() -> None:
    model, x = build()
    sites = dropout_sites(model, (5, 8), 4)
    masks = tuple(torch.ones(site.shape) for site in sites)
    with pytest.raises(FedsimError, match="'model' has shape"), inject_masks(sites, (torch.ones(2), *masks[1:])):
        model(x)


def test_a_site_that_is_never_reached_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.25))
    sites = dropout_sites(model, (3,), 1)
    with pytest.raises(FedsimError, match="never reached"), inject_masks(sites, (torch.ones(1, 4),)):
        pass


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.AlphaDropout(0.2)), "alpha dropout"),
        (nn.Sequential(nn.LSTM(3, 3, 2, dropout=0.2)), "recurrent layers"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(1.0)), "0 <= p < 1"),
    ],
)
def test_dropout_that_is_no_mask_is_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(FedsimError, match=reason), record_masks(model, torch.Generator()):
        model(torch.ones(2, 3))


class Prefix(nn.Module):
    """Keeps a random prefix of eight features."""

    ODDS = (0.4, 0.3, 0.2, 0.1)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return prefix_dropout(self.linear(x), self.ODDS, self.training)


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


def test_a_prefix_site_tells_its_odds_and_its_expected_rate() -> None:
    (site,) = dropout_sites(Prefix(), (8,), 2)
    assert site.odds == Prefix.ODDS
    assert site.rate == pytest.approx(1.0 - 2.0 / 4.0)
    assert site.shape == (2, 4)


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


def test_the_expected_mask_of_a_prefix_falls_and_kept_entries_stay_as_they_are() -> None:
    (site,) = dropout_sites(Prefix(), (8,), 2)
    assert torch.allclose(expected_mask(site), torch.tensor([[1.0, 0.6, 0.3, 0.1]] * 2))
    assert rescaling(site) == 1.0
    plain = DropoutSite(0, "x", 0.25, (2, 3))
    assert torch.equal(expected_mask(plain), torch.full((2, 3), 0.75))
    assert rescaling(plain) == pytest.approx(1.0 / 0.75)
