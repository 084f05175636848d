"""Keys and values against brute force, closed forms and hand numbers."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.core import key_value
from fedsim.components.core.key_value import MovingAverages, centre, nearest
from tests.components.bottleneck.keys import drawn, prepared


def averages(keys: Tensor, counts: Tensor, sums: Tensor, *, resets: bool) -> MovingAverages:
    return MovingAverages(keys, counts, sums, decay=0.95, epsilon=1e-5, resets=resets)


def moved_then_unread(resets: bool, sums: str) -> tuple[Tensor, Tensor]:
    """A dead key is placed on the head 100; where is it after one more batch, in which nothing is near it?"""
    keys = torch.tensor([[[0.0], [1000.0]]]).double()
    own = averages(keys, torch.tensor([[4.0, 0.0]]).double(), torch.zeros(1, 2, 1).double(), resets=resets)
    own.sums[0, 1] = 0.0 * 1000.0
    own.follow(torch.full((1, 4, 1), 100.0).double(), 0.2, torch.Generator().manual_seed(0))
    placed = own.keys[0, 1].clone()
    if sums == "head":  # S = h, as one might write it
        own.sums[0, 1] = placed
    own.follow(torch.zeros(1, 4, 1).double(), 0.0, torch.Generator())
    return placed, own.keys[0, 1]


@pytest.mark.parametrize("at_once", [1, 1 << 18])
def test_nearest_keys_agree_with_brute_force_in_ascending_order(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_value, "_AT_ONCE", at_once)
    heads, keys = drawn(3, 11, 4), drawn(3, 7, 4, seed=2)
    for count in (1, 3, 7):
        found = nearest(heads, keys, count)
        assert found.shape == (3, 11, count)
        for c in range(3):
            for i in range(11):
                distances = [float((heads[c, i] - keys[c, j]).square().sum()) for j in range(7)]
                assert found[c, i].tolist() == sorted(range(7), key=distances.__getitem__)[:count]


@pytest.mark.parametrize("active", [1, 3])
def test_the_vote_is_the_explicit_mean_of_sums(active: int) -> None:
    model = prepared(active=active, values="normal")
    x = drawn(9, 5)
    features = model.features(x)[:, 0]
    expected = torch.zeros(9, 4).double()
    for i in range(9):
        for c in range(3):
            distances = (features[i] @ model.lookup.projections[:, c] - model.lookup.keys[c]).square().sum(-1)
            for j in distances.argsort()[:active].tolist():
                expected[i] += model.table.values[c, j] / 3
    assert torch.allclose(model(x), expected, atol=1e-12)


def test_positions_of_a_map_are_averaged() -> None:
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(2, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    model = prepared(convolution, at="0", values="normal", active=2)
    x = drawn(3, 2, 2, 5)
    assert model.read(x).shape == (3, 3, 2, 10)
    pixels = x.flatten(2).mT.reshape(30, 2, 1, 1)
    assert torch.allclose(model(x), model(pixels).unflatten(0, (3, 10)).mean(1), atol=1e-12)


def test_a_linear_decoder_is_a_frozen_map_of_the_joined_values() -> None:
    model = prepared(decoder="linear", value_width=5, active=2, values="normal")
    x = drawn(9, 5)
    values, weight = model.table(model.read(x)), dict(model.named_parameters())["decoder.weight"]
    assert weight.shape == (4, 3 * 2 * 5)
    assert not weight.requires_grad
    assert torch.allclose(model(x), torch.stack([weight @ own.flatten() for own in values]), atol=1e-12)


def test_one_batch_moves_the_keys_as_by_hand() -> None:
    keys = torch.tensor([[[0.0], [10.0]]]).double()
    own = averages(keys, torch.tensor([[2.0, 4.0]]).double(), torch.tensor([[[1.0], [44.0]]]).double(), resets=True)
    own.follow(torch.tensor([[[1.0], [3.0], [12.0]]]).double(), 0.0, torch.Generator())
    n = [0.95 * 2 + 0.05 * 2, 0.95 * 4 + 0.05 * 1]
    s = [0.95 * 1 + 0.05 * (1 + 3), 0.95 * 44 + 0.05 * 12]
    smoothed = [(own_n + 1e-5) / (sum(n) + 2 * 1e-5) * sum(n) for own_n in n]
    assert own.counts[0].tolist() == pytest.approx(n, rel=1e-12)
    assert own.sums[0, :, 0].tolist() == pytest.approx(s, rel=1e-12)
    assert own.keys[0, :, 0].tolist() == pytest.approx([a / b for a, b in zip(s, smoothed, strict=True)], rel=1e-12)


def test_with_constant_data_keys_come_nearer_to_the_means_by_the_decay() -> None:
    heads = torch.tensor([[[0.0], [2.0], [20.0], [22.0]]]).double()
    own = averages(
        torch.tensor([[[5.0], [18.0]]]).double(), torch.full((1, 2), 2.0).double(), torch.tensor([[[10.0], [36.0]]])
        .double(), resets=True,
    )  # fmt: skip
    gaps: list[Tensor] = []
    for _ in range(40):
        own.follow(heads, 0.0, torch.Generator())
        gaps.append((own.keys[0, :, 0] - torch.tensor([1.0, 21.0]).double()).abs())
    ratios = torch.stack(gaps[1:]) / torch.stack(gaps[:-1])
    assert torch.allclose(ratios, torch.full_like(ratios, 0.95), atol=1e-9)


def test_a_revived_key_stays_where_it_was_put_only_if_its_sum_is_the_count_times_the_head() -> None:
    placed, kept = moved_then_unread(resets=True, sums="count times head")
    assert placed.tolist() == [100.0]
    assert kept.tolist() == pytest.approx([100.0], rel=1e-4)
    _, thrown = moved_then_unread(resets=True, sums="head")
    assert thrown.tolist() == pytest.approx([100.0 / 0.2], rel=1e-3)  # h / N
    _, back = moved_then_unread(resets=False, sums="untouched")
    assert abs(float(back)) < 1.0


def test_centres_are_means_of_what_is_nearest_and_spare_keys_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    clusters = torch.tensor([[[0.0, 0.0]], [[50.0, 0.0]]]) + 0.1 * torch.randn(2, 30, 2, generator=generator)
    heads = clusters.flatten(0, 1)[None]
    found = centre(heads, torch.zeros(1, 4, 2), 10, generator)
    chosen = torch.cdist(heads[0], found[0]).argmin(1)
    for j in chosen.unique().tolist():
        assert torch.allclose(found[0, j], heads[0, chosen == j].mean(0), atol=1e-4)
    spare = torch.full((1, 5, 2), 7.0)
    assert torch.equal(centre(heads[:, :3], spare, 10, generator)[0, 3:], spare[0, 3:])
