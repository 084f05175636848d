"""Outlooks of attacks from counted gradients, and under known defenses."""

from dataclasses import replace

import pytest
from torch import nn

from attacks.core.gradient_cost import gradient_seconds
from attacks.core.outlooks import outlook_of, tolerant_outlook
from fedsim.core.types import MethodDescription
from fedsim.core.types.effects import AddedNoise, Clipped
from tests.attacks.solving import toy


def test_seconds_are_gradients_of_the_model_and_work_beside_it():
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 2)
    estimate = outlook_of(observation, 10.0, 0.5, "it is Friday", rows=3, seconds=2.0)
    assert estimate.seconds == pytest.approx(2.0 + 10.0 * gradient_seconds(observation, rows=3))
    assert (estimate.chance, estimate.reason) == (0.5, "costs 10 gradients; it is Friday")


def test_only_a_defense_that_makes_the_update_inexact_lowers_the_chance():
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 2)
    noisy = replace(observation, known_methods=(MethodDescription("own", (AddedNoise("gaussian", 1.0),)),))
    clipped = replace(observation, known_methods=(MethodDescription("own", (Clipped(1.0),)),))
    assert outlook_of(noisy, 10.0, 0.5, "it is Friday").chance < 1e-3
    assert "a defense adds noise" in outlook_of(noisy, 10.0, 0.5, "it is Friday").reason
    assert outlook_of(clipped, 10.0, 0.5, "it is Friday").chance == 0.5
    assert tolerant_outlook(noisy, 10.0, 0.5, "it is Friday").chance == 0.5
