"""Multi-sample dropout against a loop over samples."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import PublicFederation
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import dropout_sites, inject_masks
from fedsim.core.types import Masks
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from tests.components.layer.sampling import CLASSES, RATE, WIDTH, component, drawn


def plain(*, inner: float = 0.0) -> nn.Module:
    with seeding.isolate_randomness(3):
        head = [nn.Dropout(RATE), nn.Linear(WIDTH, 8), nn.ReLU(), nn.Dropout(inner), nn.Linear(8, CLASSES)]
        return nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh(), *head).double()


def sampled(samples: int, *, inner: float = 0.0, **settings: Any) -> nn.Module:
    settings = {"at": "2", **settings}
    return component(samples=samples, **settings).prepare(plain(inner=inner), torch.Generator())


def data(examples: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(examples, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (examples,), generator=generator)


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def alone(inputs: Tensor, masks: Masks) -> Tensor:
    """The logits of the plain model under one set of masks."""
    model = plain(inner=0.3 if masks[1:] else 0.0)
    with inject_masks(dropout_sites(model, (5,), len(inputs)), masks):
        return model(inputs)


@pytest.mark.paper_step("multi-sample-dropout", "mean loss over several masks of a shared feature")
@pytest.mark.parametrize("inner", [0.0, 0.3])
def test_it_equals_a_loop_over_samples_and_its_gradient_is_the_mean_of_theirs(inner: float) -> None:
    inputs, labels = data()
    model = sampled(3, inner=inner)
    outputs, _, masks = drawn(model, inputs)
    loop = torch.stack([alone(inputs, tuple(mask[:, m] for mask in masks)) for m in range(3)], 1)
    assert torch.allclose(outputs, loop, atol=1e-12)
    singles = []
    for m in range(3):
        twin = plain(inner=inner)
        with inject_masks(dropout_sites(twin, (5,), 4), tuple(mask[:, m] for mask in masks)):
            singles.append(gradient(twin, F.cross_entropy(twin(inputs), labels)))
    assert torch.allclose(gradient(model, cross_entropy(outputs, labels)), torch.stack(singles).mean(0), atol=1e-12)


@pytest.mark.paper_step("multi-sample-dropout", "one answer in evaluation")
def test_evaluation_has_one_answer_and_weights_travel_between_any_numbers_of_samples() -> None:
    inputs, _ = data()
    first, second = sampled(2).eval(), sampled(8).eval()
    assert list(first.state_dict()) == list(plain().state_dict())
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(inputs), second(inputs))
    assert torch.equal(first(inputs), plain().eval()(inputs))


def test_the_variance_of_the_gradient_falls_as_one_over_samples() -> None:
    inputs, labels = data(1)
    found = {}
    for samples in (1, 8):
        model = sampled(samples)
        found[samples] = torch.stack(
            [
                gradient(model, cross_entropy(drawn(model, inputs, seed)[0], labels))[-CLASSES * 9 :]
                for seed in range(400)
            ]
        )
    ratio = float(found[8].var(0).sum() / found[1].var(0).sum())
    assert 0.08 < ratio < 0.18
    error = (found[1].var(0) / 400 + found[8].var(0) / 400).sqrt().clamp_min(1e-12)
    deviations = ((found[1].mean(0) - found[8].mean(0)) / error).abs()
    assert float((deviations > 3.0).double().mean()) < 0.05


def test_masks_differ_independently_between_samples_and_examples() -> None:
    model = component(samples=4, at="2").prepare(
        nn.Sequential(nn.Linear(5, 4000), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4000, CLASSES)).double(),
        torch.Generator(),
    )
    _, _, (mask,) = drawn(model, data(2)[0])
    rows = mask.reshape(8, -1)
    assert stats.binomtest(int(rows.sum()), rows.numel(), 0.7).pvalue > 1e-4
    for one in range(8):
        for other in range(one):
            agreeing = int((rows[one] == rows[other]).sum())
            assert stats.binomtest(agreeing, rows.shape[1], 0.3**2 + 0.7**2).pvalue > 1e-5


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        (nn.Sequential(nn.Linear(5, 3)), {}, "has no dropout layer"),
        (plain(), {"at": "three"}, "is called 'three'. Known: 2, 5"),
        (plain(), {"shift_pooling": True}, "shift_pooling needs `at` to name a pooling layer"),
    ],
)
def test_a_model_without_a_place_for_it_is_refused(model: nn.Module, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(NotApplicable, match=told):
        component(**settings).prepare(model, torch.Generator())


def test_heads_that_mix_samples_or_cannot_carry_them_are_refused_before_training() -> None:
    federation = object.__new__(PublicFederation)
    object.__setattr__(federation, "shape", (5,))
    object.__setattr__(federation, "classes", CLASSES)
    mixing = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.LayerNorm([2, 4]), nn.Linear(4, CLASSES))
    own = component(samples=2)
    assert "mixes samples" in str(own.refuses(federation, own.prepare(mixing, torch.Generator())))
    other = component(samples=3)
    normalised = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
    assert "a layer fails" in str(other.refuses(federation, other.prepare(normalised, torch.Generator())))
    flipping = component(samples=2, flip_half=True)
    assert "flip_half needs feature maps" in str(
        flipping.refuses(federation, flipping.prepare(plain().float(), torch.Generator()))
    )


@pytest.mark.parametrize("defenses", [[], [{"name": "dp-sgd", "clip": 1.0, "noise_multiplier": 1.0}]])
def test_it_is_accepted_by_the_federation_and_by_dp_sgd(defenses: list[dict[str, Any]]) -> None:
    raw = {
        "title": "t",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 16, "depth": 1, "bias": True},
        "components": [{"name": "multi-sample-dropout", "samples": 3}],
        "federation": {"batch_size": 4, "clients": 4, "sampling": "poisson"},
        "defenses": defenses,
    }
    world = worlds.build(parse(raw, "test"))
    world.check()
    assert [site.shape for site in world.models.sites] == [(2, 3, 16)]


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_a_zero_column_of_one_record_tells_which_features_were_dropped_in_every_sample(samples: int) -> None:
    """Direct reading of masks gets poorer with M: of p D features that one mask drops, p^M D are seen to be dropped."""
    inputs, labels = data(1)
    found, model = 0, sampled(samples)
    for seed in range(200):
        outputs, _, (mask,) = drawn(model, inputs, seed)
        (gradient,) = torch.autograd.grad(cross_entropy(outputs, labels), [model.get_parameter("3.weight")])
        dropped = ~mask[0].any(0)
        assert torch.equal(~gradient.any(0), dropped)
        found += int(dropped.sum())
    assert stats.binomtest(found, 200 * WIDTH, RATE**samples).pvalue > 1e-3


def test_one_sample_is_plain_dropout() -> None:
    inputs, labels = data()
    model = sampled(1)
    outputs, _, (mask,) = drawn(model, inputs)
    twin = plain()
    with inject_masks(dropout_sites(twin, (5,), 4), (mask[:, 0],)):
        expected = twin(inputs)
    assert torch.allclose(outputs[:, 0], expected, atol=1e-12)
    ours = gradient(model, cross_entropy(outputs, labels))
    assert torch.allclose(ours, gradient(twin, F.cross_entropy(expected, labels)), atol=1e-12)


def test_the_distance_to_the_expected_gradient_falls_like_the_root_of_samples() -> None:
    inputs, labels = data(1)
    distances = {}
    for samples in (1, 16):
        model = sampled(samples)
        found = [gradient(model, cross_entropy(drawn(model, inputs, seed)[0], labels)) for seed in range(100)]
        distances[samples] = torch.stack([(own - torch.stack(found).mean(0)).norm() for own in found]).mean()
    assert float(distances[16] / distances[1]) == pytest.approx(1.0 / math.sqrt(16), rel=0.25)
