"""Codebook features against brute force, closed forms and a surrogate without codebooks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.components.bottleneck._codebook import CodebookLayer, find_fired_codes
from fedsim.components.bottleneck.codebook import (
    bypass_codebooks,
    codebooks,
    disable_codes,
    force_codes,
    reading,
    silence_codes,
)
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError
from fedsim.federation.cohort import check
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.components.bottleneck.codebooks import activations, layer, network, prepared

Build = Callable[..., Scenario]
MLP = {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.25}


@pytest.mark.paper_step("codebook", "the k codes of largest cosine replace the activation")
@pytest.mark.parametrize("similarity", ["dot", "cosine", "euclid"])
@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_the_output_is_the_mean_or_sum_of_the_most_similar_rows(similarity: str, combine: str) -> None:
    codebook, a = layer(similarity=similarity, combine=combine), activations(4, 7, 6)
    codebook.readers.append(seen := [])
    output = codebook(a)
    scale, shift, codes = (p.detach()[0] for p in (codebook.scale, codebook.shift, codebook.codes))
    for row, found, chosen in zip(a.flatten(0, 1), output.flatten(0, 1), seen[0].flatten(0, 1), strict=True):
        normalised = F.layer_norm(row, (6,), scale, shift)
        score = {
            "dot": [float(normalised @ e / e.norm()) for e in codes],
            "cosine": [float(F.cosine_similarity(normalised, e, 0)) for e in codes],
            "euclid": [-float((normalised - e).norm()) for e in codes],
        }[similarity]
        best = sorted(range(50), key=lambda c, s=score: (-s[c], c))[:3]
        assert chosen.tolist() == [sorted(best)]
        rows = codes[sorted(best)]
        assert torch.equal(found, rows.mean(0) if combine == "mean" else rows.sum(0))


@pytest.mark.parametrize("active", [1, 3])
def test_of_equal_codes_those_numbered_first_fire(active: int) -> None:
    codebook = layer(active=active)
    with torch.no_grad():
        codebook.codes[0, 10:] = codebook.codes[0, 7]
        codebook.codes[0, :7] = -codebook.codes[0, 7]
    ranked = codebook.select_codes(codebook.codes[:, 7].detach())
    assert ranked.tolist() == [[7, 10, 11][:active]] if active > 1 else [[7]]


def parts(codebook: CodebookLayer, a: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of inputs (behind the LayerNorm) and codes of the loss <weights, output>, with both values."""
    inputs = codebook.normalise(a).detach().requires_grad_()
    codebook.normalise = lambda _a: inputs  # type: ignore[method-assign]
    output = codebook(a)
    to_inputs, to_codes = torch.autograd.grad((weights * output).sum(), [inputs, codebook.codes])
    return to_inputs.flatten(-2), to_codes[0], inputs.detach().flatten(-2), output.detach()


@pytest.mark.paper_step("codebook", "straight-through gradient and code loss")
@pytest.mark.parametrize("loss", ["base", "aeloss", "vqvae", "fullaeloss"])
def test_gradients_are_straight_through_row_sparse_and_those_of_the_code_loss(loss: str) -> None:
    codebook, a, g = layer(loss=loss, beta=0.3), activations(4, 7, 6), activations(4, 7, 6, seed=2)
    codebook.readers.append(seen := [])
    to_inputs, to_codes, inputs, output = parts(codebook, a, g)
    gap, positions, k = output - inputs, 28, 3
    commitment = -2 * 0.3 * gap if loss in ("vqvae", "fullaeloss") else torch.zeros_like(gap)
    assert torch.allclose(to_inputs, g + commitment, atol=1e-14)
    received = (0 if loss == "vqvae" else 1) * g + (0 if loss == "base" else 1) * 2 * gap / positions
    expected = torch.zeros(50, 6, dtype=torch.float64)
    for chosen, own in zip(seen[0].flatten(0, 2), received.flatten(0, 1), strict=True):
        for code in chosen.tolist():
            expected[code] += own / k
    assert torch.allclose(to_codes, expected, atol=1e-14)
    fired = find_fired_codes(seen[0], 1, 50)[0]
    assert 0 < int(fired.sum()) < 50
    assert not to_codes[~fired].any()
    assert to_codes[fired].any(1).all()


def test_groups_are_independent_codebooks_on_slices() -> None:
    whole, a = layer(12, groups=3), activations(4, 5, 12)
    alone = [layer(4) for _ in range(3)]
    for own, codes in zip(alone, whole.codes, strict=True):
        own.codes.data = codes.detach()[None].clone()
    together = torch.cat([own(part) for own, part in zip(alone, a.split(4, -1), strict=True)], -1)
    assert torch.equal(whole(a), together)


def test_feature_maps_are_quantised_pixel_by_pixel() -> None:
    codebook, images = layer(), activations(2, 6, 3, 4)
    assert torch.equal(
        codebook(images), codebook(images.movedim(1, -1).flatten(1, 2)).unflatten(1, (3, 4)).movedim(-1, 1)
    )


def test_switched_off_the_network_is_the_plain_one_bit_by_bit() -> None:
    plain, x = network(), activations(3, 5)
    expected = plain(x)
    model = prepared(network(), at=("1", "2"))
    assert not torch.equal(model(x), expected)
    with bypass_codebooks(model):
        assert torch.equal(model(x), expected)
    assert all(codebook.enabled for codebook in codebooks(model).values())


@pytest.mark.paper_step("codebook", "control by forcing codes")
def test_codes_are_read_forced_and_disabled() -> None:
    model, x = prepared(network(), at=("1", "3"), groups=2), activations(6, 5)
    with reading(model) as seen:
        expected = model(x)
    (first,), (second,) = seen["1"], seen["3"]
    assert first.shape == second.shape == (6, 2, 2)
    for group in range(2):
        with force_codes(model, "1", first[0, group].tolist(), group=group):
            assert torch.equal(model(x)[0], expected[0])
    with force_codes(model, "3", [4]), reading(model) as again:
        model(x)
    assert (again["3"][0] == 4).any(-1).all()
    assert torch.equal(again["1"][0], first)
    kept = (second.unsqueeze(-1) == again["3"][0].unsqueeze(-2)).any(-1).sum(-1)
    assert bool((kept >= 1).all())
    code = int(first.flatten()[0])
    with disable_codes(model, "1", [code]), reading(model) as without:
        model(x)
    assert (first == code).any()
    assert not (without["1"][0] == code).any()
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("group", [None, 1])
def test_a_silenced_code_leaves_its_place_empty(combine: str, group: int | None) -> None:
    codebook, a = layer(12, groups=2, codes=9, combine=combine), activations(5, 4, 12)
    model = nn.Sequential(codebook)
    with reading(model) as seen:
        before = model(a)
        with silence_codes(model, "there", [2, 7], group=group), silence_codes(model, "there", [3], group=0):
            found = model(a)
            (slope,) = torch.autograd.grad(found.sum(), codebook.codes)
        assert torch.equal(model(a), before)
    chosen, left, again = seen["there"]
    is_silent = torch.isin(chosen, torch.tensor([2, 7]))
    if group is not None:
        is_silent[..., 0, :] = False
    is_silent[..., 0, :] |= chosen[..., 0, :] == 3
    assert 0 < int(is_silent.sum()) < is_silent.numel()
    assert torch.equal(left, chosen.masked_fill(is_silent, -1))
    assert torch.equal(again, chosen)
    for own, codes, silent in zip(
        found.unflatten(-1, (2, 6)).flatten(0, 1), chosen.flatten(0, 1), is_silent.flatten(0, 1), strict=True
    ):
        for part in range(2):
            rows = [codebook.codes[part, c] for c, s in zip(codes[part], silent[part], strict=True) if not s]
            total = torch.stack(rows).sum(0) if rows else torch.zeros(6).double()
            assert torch.allclose(own[part], total / 3 if combine == "mean" else total, atol=1e-14)
    assert not slope[1, [2, 7]].any()
    assert slope[1].any()


def test_control_of_what_is_not_there_is_refused() -> None:
    model = prepared(network(), at=("1",))
    with pytest.raises(FedsimError, match="no codebook at '3'"):
        force_codes(model, "3", [0])
    with pytest.raises(FedsimError, match="3 codes cannot be forced at '1', where 2 are active"):
        force_codes(model, "1", [0, 1, 2])
    with pytest.raises(FedsimError, match="1 groups of 20 codes, numbered from 0"):
        force_codes(model, "1", [20])
    with pytest.raises(FedsimError, match="1 groups of 20 codes, numbered from 0"):
        silence_codes(model, "1", [0], group=1)
    with pytest.raises(FedsimError, match="too few codes are left"):
        disable_codes(model, "1", list(range(19)))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"at": ("12",)}, r"no layer is called '12'\. Did you mean '2'\?"),
        ({"at": ("1", "1")}, "'1' has a codebook already"),
        ({"at": ("2",), "width": 7}, "codes have 7 entries, more than the 6 of '2'"),
        ({"at": ("2",), "groups": 4}, "'2' returns 6 entries, not a multiple of the 4 groups"),
        ({"at": ("2",), "codes": 2, "active": 3}, "3 active codes, expected at most 2"),
        ({"at": ("2",), "codes": 2, "active": 1, "first_active": 3}, "3 active codes, expected at most 2"),
        ({"at": ("2",), "active": 3, "first_active": 2}, "k cannot fall from first_active 2 to 3"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(NotApplicable, match=why):
        prepared(network(), **settings)


def test_a_place_inside_an_attention_or_of_unknown_width_is_refused() -> None:
    with pytest.raises(NotApplicable, match="'0.out_proj' is never called"):
        prepared(nn.Sequential(nn.MultiheadAttention(4, 2)), at=("0.out_proj",))
    with pytest.raises(NotApplicable, match="how wide is '0'"):
        prepared(nn.Sequential(nn.Identity()), at=("0",))


@pytest.mark.parametrize(
    ("component", "why"),
    [
        ({"at": ["2"], "width": 8}, "its codes have 8 entries, but the activation of '2' has 16"),
        ({"at": ["2.layer"]}, "no layer is called '2.layer'"),
    ],
)
def test_a_scenario_in_which_it_does_not_fit_ends_before_the_first_round(
    scenario: Build, component: dict[str, Any], why: str
) -> None:
    built = scenario(model=MLP, components=[{"name": "codebook", **component}])
    with pytest.raises((ScenarioError, NotApplicable), match=why):
        worlds.build(built).check()


def test_vectorized_and_dp_sgd_take_the_task_loss_and_refuse_what_needs_whole_batches(scenario: Build) -> None:
    def built(engine: str, defenses: list[dict[str, Any]], **settings: Any) -> worlds.World:
        return worlds.build(
            scenario(
                model=MLP,
                federation={
                    "engine": engine,
                    "batch_size": 4,
                    "clients": 2,
                    "sampling": "poisson" if defenses else "shuffle",
                },
                components=[{"name": "codebook", "at": ["2"], "codes": 12, "active": 2, **settings}],
                defenses=defenses,
            )
        )

    private = [{"name": "dp-sgd", "noise_multiplier": 1.0}]
    check(built("vectorized", [], loss="base", groups=2))
    built("local", private, loss="base", groups=2).check()
    for settings, name in (
        ({}, "loss 'aeloss'"),
        ({"loss": "base", "revive_after": 3}, "revive_after"),
        ({"loss": "base", "first_active": 4}, "first_active"),
        ({"loss": "base", "penalty": 0.01}, "penalty"),
    ):
        with pytest.raises(FedsimError, match=f"codebook with {name}.* which depends on the whole batch"):
            check(built("vectorized", [], **settings))
        with pytest.raises(ScenarioError, match=f"codebook with {name}.* works on whole batches"):
            built("local", private, **settings).check()
