"""Signs, QSGD, uniform quantisation and half precision: which values are sent, and what rounding is on average."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.types import Tensors
from tests.defenses.stepping import here, make

DRAWS = 4000
VALUES = torch.tensor([-1.3, -0.2, 0.0, 0.05, 0.4, 2.0])


def sent(name: str, tensors: Tensors, seed: int = 0, **settings: Any) -> Tensors:
    return make(name, **settings).on_gradient(tensors, here(seed))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("qsgd", {"levels": 1}), ("qsgd", {"levels": 5}), ("quantisation", {"bits": 1}), ("quantisation", {"bits": 3})],
)
def test_rounding_is_right_on_average(name: str, settings: dict[str, Any]) -> None:
    """Within three standard errors (four: six entries are looked at), in double precision."""
    values = VALUES.double()
    drawn = torch.stack([sent(name, {"w": values}, seed, **settings)["w"] for seed in range(DRAWS)])
    errors = (drawn.mean(0) - values).abs()
    assert bool((errors <= 4 * drawn.std(0) / DRAWS**0.5 + 1e-12).all())


@given(st.integers(1, 300), st.integers(0, 1000), st.lists(st.integers(1, 5), max_size=3))
def test_qsgd_sends_levels_of_the_norm_next_to_each_entry(levels: int, seed: int, shape: list[int]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rounded = sent("qsgd", {"w": tensor}, seed, levels=levels)["w"]
    steps = rounded / tensor.norm() * levels
    assert torch.allclose(steps, steps.round(), atol=1e-6)
    assert bool(((rounded - tensor).abs() <= tensor.norm() / levels * (1 + 1e-9)).all())
    assert bool((rounded * tensor >= 0).all())


@given(st.integers(1, 10), st.integers(0, 1000), st.lists(st.integers(1, 5), max_size=3))
def test_quantisation_sends_equidistant_values_next_to_each_entry(bits: int, seed: int, shape: list[int]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rounded = sent("quantisation", {"w": tensor}, seed, bits=bits)["w"]
    if tensor.numel() == 1:
        assert torch.equal(rounded, tensor)
        return
    step = (tensor.max() - tensor.min()) / (2**bits - 1)
    places = (rounded - tensor.min()) / step
    assert torch.allclose(places, places.round(), atol=1e-6)
    assert bool(((rounded - tensor).abs() <= step * (1 + 1e-9)).all())
    assert len(rounded.unique()) <= 2**bits


def test_signs_with_and_without_scale() -> None:
    assert torch.equal(sent("sign", {"w": VALUES})["w"], torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0, 1.0]))
    scaled = sent("sign", {"w": VALUES}, scaled=True)["w"]
    assert torch.allclose(scaled, VALUES.abs().mean() * VALUES.sign())


def test_half_precision_is_that_of_numpy_and_never_infinite() -> None:
    values = torch.tensor([1.0 / 3.0, -1e-8, 65_519.0, 1e6, -1e30, 2049.0])
    rounded = sent("float16", {"w": values})["w"]
    expected = np.clip(values.numpy(), -65_504, 65_504).astype(np.float16).astype(np.float32)
    assert np.array_equal(rounded.numpy(), expected)
    assert rounded.dtype == values.dtype


@pytest.mark.parametrize("name", ["sign", "qsgd", "quantisation", "float16"])
def test_a_tensor_of_zeros_or_of_one_value_is_sent_as_it_is(name: str) -> None:
    tensors = {"zeros": torch.zeros(5), "one": torch.ones(())}
    assert all(torch.equal(sent(name, tensors)[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", ["qsgd", "quantisation"])
def test_two_calls_round_differently(name: str) -> None:
    tensors = {"w": torch.randn(500, generator=torch.Generator().manual_seed(1))}
    settings = {"levels": 2} if name == "qsgd" else {"bits": 2}
    assert not torch.equal(sent(name, tensors, 1, **settings)["w"], sent(name, tensors, 2, **settings)["w"])
