"""Gradient noise: its scale, its law, and its independence."""

import pytest
import torch

from tests.defenses.applying import applied
from tests.defenses.stepping import gradient, make


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_noise_has_the_stated_scale_and_none_at_zero(law: str) -> None:
    tensors = {"w": torch.zeros(200_000)}
    noise = applied(make("gradient-noise", scale=0.5, law=law), tensors)["w"]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    kurtosis = float((noise / noise.std()).pow(4).mean())
    assert kurtosis == pytest.approx({"gaussian": 3.0, "laplace": 6.0}[law], rel=0.1)
    assert torch.equal(applied(make("gradient-noise", scale=0.0, law=law), gradient())["scale"], gradient()["scale"])


def test_relative_noise_follows_the_root_mean_square_of_each_tensor() -> None:
    tensors = {"small": torch.full((50_000,), 1e-3), "large": torch.full((50_000,), 10.0), "zero": torch.zeros(9)}
    noisy = applied(make("gradient-noise", scale=0.3, relative=True), tensors)
    assert float((noisy["small"] - tensors["small"]).std()) == pytest.approx(0.3e-3, rel=0.02)
    assert float((noisy["large"] - tensors["large"]).std()) == pytest.approx(3.0, rel=0.02)
    assert torch.equal(noisy["zero"], tensors["zero"])


def test_noise_of_two_calls_is_independent() -> None:
    tensors = {"w": torch.zeros(100_000)}
    first, second = (applied(make("gradient-noise", scale=1.0), tensors, seed)["w"] for seed in (1, 7))
    assert abs(float((first * second).mean())) < 4 / 100_000**0.5
