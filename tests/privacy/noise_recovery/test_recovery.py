"""All means together: a seed that fits ends the search, and a refusal has both reasons."""

import pytest
import torch

from fedsim.privacy.noise_recovery.recovery import recover_noise, subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise


def test_a_seed_that_fits_ends_the_search():
    noise = torch.empty(40, 5).normal_(generator=torch.Generator().manual_seed(8))
    outcome = recover_noise([noise], most_seeds=20)
    assert isinstance(outcome, ComputedNoise)
    assert (outcome.source, outcome.equations) == ("seed 8", 0)


def test_a_refusal_says_what_was_tried():
    noise = torch.empty(40, 5).normal_(generator=torch.Generator().manual_seed(8_000_009))
    said = str(recover_noise([noise], most_seeds=20))
    assert "no small or usual seed" in said
    assert "200 values are too few" in said


def sent(shapes, seed, scale=0.01):
    """Return an update's tensors and the update plus noise of deviation 3, drawn in the order of the shapes."""
    generator, updates = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(6)
    clean = {name: scale * torch.randn(shape, generator=updates) for name, shape in shapes.items()}
    return clean, {name: u + 3 * torch.empty(u.shape).normal_(generator=generator) for name, u in clean.items()}


def in_order(tensors, names):
    return {name: tensors[name] for name in names}


def test_tensors_in_another_order_than_the_draws_stay_noisy_and_are_counted():
    clean, noisy = sent({"a": (60, 50), "b": (100,), "c": (150,), "d": (10,)}, seed=8)
    found, cleaned = subtract_noise(in_order(noisy, "acbd"), most_seeds=20)
    assert isinstance(found, ComputedNoise)
    assert not found.is_complete
    assert found.fraction == pytest.approx((3000 + 10) / 3260)
    assert all(torch.equal(cleaned[name], noisy[name]) for name in "bc")
    assert all(torch.allclose(cleaned[name], clean[name], atol=1e-3) for name in "ad")
    found, cleaned = subtract_noise(noisy, most_seeds=20)
    assert found.is_complete
    assert all(torch.allclose(cleaned[name], clean[name], atol=1e-3) for name in clean)


def test_a_given_deviation_replaces_the_measured_one():
    clean, noisy = sent({"a": (60, 50), "b": (100,), "c": (10,)}, seed=8, scale=0.3)
    _, measured = subtract_noise(noisy, most_seeds=20)
    found, cleaned = subtract_noise(noisy, most_seeds=20, deviation=3.0)
    assert isinstance(found, ComputedNoise)
    assert all(torch.allclose(cleaned[name], clean[name], rtol=0, atol=1e-5) for name in clean)
    assert float((measured["a"] - clean["a"]).abs().max()) > 1e-3


def test_at_a_wrong_deviation_nothing_is_subtracted():
    _, noisy = sent({"a": (20, 15), "b": (10,)}, seed=8)
    for deviation in (0.5, 30.0):
        outcome, unchanged = subtract_noise(noisy, most_seeds=20, deviation=deviation)
        assert isinstance(outcome, UnknownNoise)
        assert unchanged is noisy


@pytest.mark.slow
def test_a_state_that_explains_the_largest_tensor_alone_is_a_partial_finding():
    # The equations come from 2**15 values: more than the weight has would mix orders, and contradict.
    shapes = {"weight": (100, 400), "bias": (100,), "head": (10, 100), "last": (10,)}
    clean, noisy = sent(shapes, seed=0x5EED1234)
    found, cleaned = subtract_noise(in_order(noisy, reversed(shapes)), most_seeds=10)
    assert isinstance(found, ComputedNoise)
    assert found.source == "state"
    assert found.fraction == pytest.approx(40_000 / 41_110)
    assert found.disagreement < 0.01
    assert all(torch.equal(cleaned[name], noisy[name]) for name in ("bias", "head", "last"))
    assert torch.allclose(cleaned["weight"], clean["weight"], atol=1e-3)


def test_all_tensors_in_the_order_of_the_draws_are_cleaned():
    clean, noisy = sent({"a": (60, 50), "b": (100,), "c": (150,), "d": (10,)}, seed=8)
    found, cleaned = subtract_noise(noisy, most_seeds=20)
    assert isinstance(found, ComputedNoise)
    assert found.is_complete
    assert all(torch.allclose(cleaned[name], clean[name], atol=1e-3) for name in clean)
