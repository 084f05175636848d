"""What rounding promises: it is right on average, leaves what needs none, and draws anew."""

from typing import Any

import pytest
import torch

from tests.defenses.rounding.rounding import VALUES, sent

DRAWS = 1000


@pytest.mark.paper_step("qsgd", "unbiased rounding")
@pytest.mark.paper_step("quantisation", "unbiased rounding")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("qsgd", {"levels": 5}),
        pytest.param("quantisation", {"bits": 3}, marks=pytest.mark.slow),
        pytest.param("qsgd", {"levels": 1}, marks=pytest.mark.slow),
        pytest.param("quantisation", {"bits": 1}, marks=pytest.mark.slow),
    ],
)
def test_rounding_is_right_on_average(name: str, settings: dict[str, Any]) -> None:
    """Within three standard errors (four: six entries are looked at), in double precision."""
    values = VALUES.double()
    drawn = torch.stack([sent(name, {"w": values}, seed, **settings)["w"] for seed in range(DRAWS)])
    errors = (drawn.mean(0) - values).abs()
    assert bool((errors <= 4 * drawn.std(0) / DRAWS**0.5 + 1e-12).all())


@pytest.mark.parametrize("name", ["sign", "qsgd", "quantisation", "float16"])
def test_a_tensor_of_zeros_or_of_one_value_is_sent_as_it_is(name: str) -> None:
    tensors = {"zeros": torch.zeros(5), "one": torch.ones(())}
    assert all(torch.equal(sent(name, tensors)[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", ["qsgd", "quantisation"])
def test_two_calls_round_differently(name: str) -> None:
    tensors = {"w": torch.randn(500, generator=torch.Generator().manual_seed(1))}
    settings = {"levels": 2} if name == "qsgd" else {"bits": 2}
    assert not torch.equal(sent(name, tensors, 1, **settings)["w"], sent(name, tensors, 2, **settings)["w"])
