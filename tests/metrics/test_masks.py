import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import draw_masks, dropout_sites, inject_masks
from fedsim.core.seeding import isolate_randomness
from fedsim.core.types import Batch, DropoutSite
from fedsim.metrics.masks import identifiable, score_masks

ORDER = torch.tensor([0])


class TinyTransformer(nn.Module):
    """One pre-norm block; only token 0 is read out."""

    def __init__(self, width: int = 6, tokens: int = 4):
        super().__init__()
        self.query_key_value = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 8), nn.Linear(8, width)
        self.hidden, self.output = nn.Dropout(0.3), nn.Dropout(0.3)
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        query, key, value = self.query_key_value(tokens).chunk(3, -1)
        tokens = tokens + F.scaled_dot_product_attention(query, key, value, dropout_p=0.2 if self.training else 0.0)
        tokens = tokens + self.output(self.down(self.hidden(F.gelu(self.up(self.norm(tokens))))))
        return self.head(tokens[:, 0])


def mlp() -> nn.Module:
    with isolate_randomness(3):
        return nn.Sequential(
            nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, 3)
        ).double()


def setting(model, shape, batch_size, seed=0):
    source = torch.Generator().manual_seed(seed)
    sites = dropout_sites(model, shape, batch_size)
    inputs = torch.randn(batch_size, *shape, generator=source, dtype=torch.double)
    labels = torch.randint(3, (batch_size,), generator=source)
    return Batch(inputs, labels), sites, draw_masks(sites, source, inputs)


def gradient(model, batch, sites, masks):
    with inject_masks(sites, masks):
        loss = F.cross_entropy(model(batch.inputs), batch.labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def by_changing(model, batch, sites, masks, change):
    """Which entries change some gradient when each alone goes through `change`."""
    reference = gradient(model, batch, sites, masks)
    influential = [torch.zeros_like(mask, dtype=torch.bool) for mask in masks]
    for flags, mask in zip(influential, masks, strict=True):
        for index in range(mask.numel()):
            value = float(mask.view(-1)[index])
            mask.view(-1)[index] = change(value)
            flags.view(-1)[index] = not torch.equal(gradient(model, batch, sites, masks), reference)
            mask.view(-1)[index] = value
    return influential


def flip(value):
    return 1 - value


def nudge(value):
    return abs(value - 1e-3)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_changing_each_unit_of_a_relu_mlp(batch_size, seed):
    model = mlp()
    batch, sites, masks = setting(model, (5,), batch_size, seed)
    found = identifiable(model, batch, sites, masks, F.cross_entropy)
    nudged, flipped = (by_changing(model, batch, sites, masks, change) for change in (nudge, flip))
    assert all(torch.equal(f, e) for f, e in zip(found, nudged, strict=True))
    # A flip may also wake a later unit that was inactive at the truth: it sees at least as much.
    assert all((e | ~f).all() for f, e in zip(found, flipped, strict=True))
    assert any(not f.all() for f in found)
    assert any(f.any() for f in found)


def test_tokens_nobody_reads_hide_their_masks():
    with isolate_randomness(0):
        model = TinyTransformer().double()
    batch, sites, masks = setting(model, (4, 6), 2)
    attention, hidden, output = identifiable(model, batch, sites, masks, F.cross_entropy)
    assert not hidden[:, 1:].any()
    assert not output[:, 1:].any()
    assert hidden[:, 0].any()
    assert output[:, 0].all()
    assert not attention[:, 1:].any()
    expected = by_changing(model, batch, sites, masks, flip)
    assert all(torch.equal(f, e) for f, e in zip((attention, hidden, output), expected, strict=True))


def test_a_site_whose_output_nobody_reads_hides_its_whole_mask():
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.unread, self.head = nn.Dropout(0.5), nn.Dropout(0.5), nn.Linear(4, 3)

        def forward(self, inputs):
            self.unread(inputs)
            return self.head(self.read(inputs))

    with isolate_randomness(0):
        model = Branched().double()
    batch, sites, masks = setting(model, (4,), 2)
    visible = identifiable(model, batch, sites, masks, F.cross_entropy)
    found = {site.name: seen for site, seen in zip(sites, visible, strict=True)}
    assert not found["unread"].any()
    assert found["read"].all()


def test_leaves_the_model_as_it_was():
    with isolate_randomness(0):
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    batch, sites, masks = setting(model, (4,), 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identifiable(model, batch, sites, masks, F.cross_entropy)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m.requires_grad for m in masks)


def site(*shape: int) -> DropoutSite:
    return DropoutSite(0, "drop", 0.5, shape)


def test_scores_only_what_can_be_seen():
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    estimate = torch.tensor([[0.9, 0.2, 0.1, 0.8]])
    seen = torch.tensor([[True, True, True, False]])
    (score,) = score_masks([site(1, 4)], (estimate,), (mask,), [seen], ORDER)
    assert (score.units, score.identifiable) == (4, 3)
    assert score.accuracy == pytest.approx(2 / 3)
    assert score.auc == pytest.approx(0.5)


def test_an_estimate_of_one_half_says_dropped():
    mask, seen = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)
    (score,) = score_masks([site(1, 4)], (torch.full((1, 4), 0.5),), (mask,), [seen], ORDER)
    assert score.accuracy == 0.75


def test_auc_counts_ties_as_half_and_needs_both_kinds():
    seen = torch.ones(1, 3, dtype=torch.bool)
    (tied,) = score_masks([site(1, 3)], (torch.full((1, 3), 0.7),), (torch.tensor([[1.0, 0.0, 0.0]]),), [seen], ORDER)
    assert tied.auc == 0.5
    (kept,) = score_masks([site(1, 3)], (torch.ones(1, 3),), (torch.ones(1, 3),), [seen], ORDER)
    assert (kept.accuracy, kept.auc) == (1.0, None)
    (blind,) = score_masks([site(1, 3)], (torch.ones(1, 3),), (torch.ones(1, 3),), [~seen], ORDER)
    assert (blind.accuracy, blind.auc, blind.identifiable) == (None, None, 0)


def test_masks_follow_their_images():
    source = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 7, generator=source).round()
    order = torch.tensor([2, 0, 1])
    estimate = torch.empty_like(mask)
    estimate[order] = mask
    seen = torch.ones_like(mask, dtype=torch.bool)
    (score,) = score_masks([site(3, 7)], (estimate,), (mask,), [seen], order)
    assert (score.accuracy, score.auc) == (1.0, 1.0)


def test_heads_folded_into_the_batch_follow_their_images():
    mask = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    estimate = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    seen = torch.ones_like(mask, dtype=torch.bool)
    (score,) = score_masks([site(4, 1)], (estimate,), (mask,), [seen], torch.tensor([1, 0]))
    assert score.accuracy == 1.0


def test_an_estimate_that_is_not_finite_is_wrong():
    mask = torch.tensor([[1.0, 0.0]])
    seen = torch.ones_like(mask, dtype=torch.bool)
    (score,) = score_masks([site(1, 2)], (torch.full((1, 2), torch.nan),), (mask,), [seen], ORDER)
    assert (score.accuracy, score.auc) == (0.0, 0.0)


def test_estimates_that_do_not_fit_are_refused():
    mask, seen = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(FedsimError, match="0 masks, expected 1"):
        score_masks([site(1, 2)], (), (mask,), [seen], ORDER)
    with pytest.raises(FedsimError, match=r"\(1, 3\), expected \(1, 2\)"):
        score_masks([site(1, 2)], (torch.ones(1, 3),), (mask,), [seen], ORDER)
