"""Quantisation against exact fractions, and the bound on a weighted mean."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation import quantisation as quantising
from fedsim.privacy.secure_aggregation.quantisation import (
    SecureQuantisation,
    check_total_weight,
    narrowest,
    weighted_levels,
    weighted_mean,
)
from fedsim.privacy.secure_aggregation.ring import modular_sum


def generator(place=0) -> torch.Generator:
    return seeding.generator(3, "quantisation", place)


def levels_of(vector, quantisation, source):
    return weighted_levels(vector, 1, quantisation, source)[:-1]


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(-20, 20), min_size=1, max_size=20),
    bound=st.floats(0.01, 10),
    levels=st.integers(2, 2**22),
    seed=st.integers(0, 1000),
)
def test_a_level_is_one_of_the_two_around_the_value(values, bound, levels, seed):
    settings_ = SecureQuantisation(clipping_range=bound, levels=levels, modulus_bits=40)
    got = levels_of(torch.tensor(values, dtype=torch.float64), settings_, generator(seed))
    assert got.dtype == torch.int64
    for value, level in zip(values, got.tolist(), strict=True):
        exact = (Fraction(min(max(value, -bound), bound)) + Fraction(bound)) / Fraction(2 * bound) * (levels - 1)
        # Double precision may put a value within 1e-9 of a level on the other side of it.
        assert math.floor(exact - Fraction(1e-9)) <= level <= math.ceil(exact + Fraction(1e-9))
        assert 0 <= level < levels


def test_the_defaults_stay_since_a_scenario_that_does_not_state_them_depends_on_them():
    assert SecureQuantisation().model_dump() == {"clipping_range": 8.0, "levels": 2**22, "modulus_bits": 40}
    assert SecureQuantisation().max_total_weight == 262_144  # as docs/scenarios.md says


@pytest.mark.parametrize(
    ("settings_", "is_allowed"),
    [
        ({"levels": 2, "modulus_bits": 2}, True),
        ({"levels": 2, "modulus_bits": 1}, False),
        ({"levels": 1}, False),
        ({"levels": 2**32, "modulus_bits": 62}, True),
        ({"levels": 2**32 + 1, "modulus_bits": 62}, False),
        ({"modulus_bits": 63}, False),
        ({"clipping_range": 1e-3}, True),
        ({"clipping_range": 0.0}, False),
    ],
)
def test_settings_are_bounded(settings_, is_allowed):
    if is_allowed:
        assert SecureQuantisation(**settings_).model_dump(include=set(settings_)) == settings_
        return
    with pytest.raises(ValidationError):
        SecureQuantisation(**settings_)


def test_ends_and_levels_are_exact():
    settings_ = SecureQuantisation(clipping_range=1.0, levels=5)
    vector = torch.tensor([-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, 9.0])
    assert levels_of(vector, settings_, generator()).tolist() == [0, 0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("value", [-0.93, -0.25, 0.1, 0.777])
def test_rounding_is_unbiased(value):
    draws = 40_000
    settings_ = SecureQuantisation(clipping_range=1.0, levels=4)
    position = (value + 1.0) / settings_.step
    levels = levels_of(torch.full((draws,), value, dtype=torch.float64), settings_, generator()).double()
    part = position % 1
    assert abs(levels.mean() - position) < 3 * math.sqrt(part * (1 - part) / draws)


@pytest.mark.parametrize("part", [0, 1, 2, 20_000, 65_535])
def test_of_all_random_words_exactly_the_share_between_two_levels_rounds_up(monkeypatch, part):
    words = torch.arange(-(1 << 15), 1 << 15)
    monkeypatch.setattr(quantising, "_random_words", lambda *_: words)
    settings_ = SecureQuantisation(clipping_range=1.5, levels=4)  # levels lie 1 apart
    vector = torch.full((len(words),), -0.5 + part / 65_536, dtype=torch.float64)
    levels = levels_of(vector, settings_, generator())
    assert int((levels == 2).sum()) == part
    assert int((levels == 1).sum()) == 65_536 - part


@settings(deadline=None, max_examples=40)
@given(
    weights=st.lists(st.integers(0, 60), min_size=1, max_size=15).filter(any),
    bound=st.floats(0.1, 8),
    levels=st.integers(2, 2**22),
    seed=st.integers(0, 1000),
)
def test_the_mean_is_within_one_step_whatever_the_weights(weights, bound, levels, seed):
    settings_ = SecureQuantisation(clipping_range=bound, levels=levels, modulus_bits=32)
    vectors = torch.randn((len(weights), 50), generator=generator(seed), dtype=torch.float64) * bound
    total = modular_sum(
        [
            weighted_levels(vector, weight, settings_, generator(client))
            for client, (vector, weight) in enumerate(zip(vectors, weights, strict=True))
        ],
        settings_.modulus_bits,
    )
    result = weighted_mean(total, settings_)
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    true_mean = shares @ vectors.clamp(-bound, bound)
    assert result.weight == sum(weights)
    assert (result.mean - true_mean).abs().max() <= settings_.step


@pytest.mark.parametrize("weight", [1, 2**10, 2**10 + 1])
def test_narrow_integers_hold_the_same_levels(weight):
    settings_ = SecureQuantisation(clipping_range=1.0, levels=2**21 + 1)
    vector = torch.tensor([-1.0, -0.123, 0.5, 1.0])
    wide = weighted_levels(vector, weight, settings_, generator())
    dtype = narrowest(weight, settings_)
    narrow = weighted_levels(vector, weight, settings_, generator(), dtype)
    assert dtype == (torch.int32 if weight < 2**10 else torch.int64)
    assert narrow.dtype == dtype
    assert torch.equal(narrow.long(), wide)
    assert torch.equal(modular_sum([narrow] * 3, 40), modular_sum([wide] * 3, 40))


def test_the_weight_travels_as_the_last_coordinate():
    settings_ = SecureQuantisation(clipping_range=1.0, levels=11, modulus_bits=32)
    vector = torch.tensor([-1.0, -0.4, 1.0], dtype=torch.float64)
    assert weighted_levels(vector, 7, settings_, generator()).tolist() == [0, 21, 70, 7]


def test_the_largest_total_weight_fits_and_the_next_does_not():
    settings_ = SecureQuantisation(levels=2**22, modulus_bits=32)
    top = torch.tensor([settings_.clipping_range])
    half = settings_.max_total_weight // 2
    fits = modular_sum([weighted_levels(top, half, settings_, generator()) for _ in range(2)], 32)
    assert weighted_mean(fits, settings_).mean.item() == pytest.approx(settings_.clipping_range, abs=1e-12)
    wraps = modular_sum([weighted_levels(top, weight, settings_, generator()) for weight in (half, half + 1)], 32)
    with pytest.raises(FedsimError, match=r"total weight of 1025 .* may be at most 1024.*modulus_bits to at least 33"):
        weighted_mean(wraps, settings_)


def test_the_advice_of_the_overflow_error_helps():
    tight = SecureQuantisation(levels=2**22, modulus_bits=32)
    with pytest.raises(FedsimError, match="Set modulus_bits to at least 35"):
        check_total_weight(5000, tight)
    check_total_weight(5000, SecureQuantisation(levels=2**22, modulus_bits=35))
    with pytest.raises(FedsimError, match="at least 35"):
        check_total_weight(5000, SecureQuantisation(levels=2**22, modulus_bits=34))


def test_no_modulus_is_enough_for_everything():
    with pytest.raises(FedsimError, match="no modulus_bits is enough"):
        check_total_weight(2**32, SecureQuantisation(levels=2**32, modulus_bits=62))


def test_sixty_two_bits_do_not_overflow():
    settings_ = SecureQuantisation(levels=2**32, modulus_bits=62)
    vector = weighted_levels(torch.tensor([8.0, -8.0]), settings_.max_total_weight // 3, settings_, generator())
    mean = weighted_mean(modular_sum([vector] * 3, 62), settings_).mean
    assert mean.tolist() == pytest.approx([8.0, -8.0], abs=1e-9)


def test_weights_count_examples():
    with pytest.raises(FedsimError, match="at least 0"):
        weighted_levels(torch.tensor([1.0]), -3, SecureQuantisation(), generator())


def test_a_weight_of_zero_adds_nothing_and_a_sum_of_nothing_is_zero():
    nothing = weighted_levels(torch.tensor([1.0, -8.0]), 0, SecureQuantisation(), generator())
    assert nothing.tolist() == [0, 0, 0]
    one = weighted_levels(torch.tensor([1.0, -8.0]), 3, SecureQuantisation(), generator())
    assert torch.equal(modular_sum([nothing, one], 40), one)
    result = weighted_mean(modular_sum([nothing, nothing], 40), SecureQuantisation())
    assert (result.mean.tolist(), result.weight) == ([0.0, 0.0], 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(FedsimError, match="1 entries that are not finite"):
        levels_of(torch.tensor([0.0, 1.0, bad]), SecureQuantisation(), generator())


def test_a_modulus_holds_the_sum_of_two():
    with pytest.raises(ValidationError, match="modulus_bits to at least 23"):
        SecureQuantisation(levels=2**22, modulus_bits=22)
    assert SecureQuantisation(levels=2**22, modulus_bits=23).max_total_weight == 2
