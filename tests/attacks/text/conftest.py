"""Tables of a scenario on sentences that spans tell apart."""

from collections.abc import Callable
from typing import Any

import pytest

from fedsim.core.types import Observation, Truth
from tests.attacks.text.texts import KNOWN


@pytest.fixture
def tables(written_text: dict[str, Any]) -> dict[str, Any]:
    return {**written_text, "threat": {"knows": list(KNOWN)}}


@pytest.fixture
def masked_texts(watched: Callable[..., Any], written_text: dict[str, Any]) -> Callable[..., tuple[Observation, Truth]]:
    """Gradients of texts of seven words each of which has masked places, and visible ones."""

    def build(size: int) -> tuple[Observation, Truth]:
        model = {"name": "tiny-llada", "width": 64, "hidden": 64, "blocks": 2}
        tables = {"data": {**written_text["data"], "length": 7}, "model": model, "task": "masked-diffusion"}
        for seed in range(20):
            observation, truth, _ = watched(
                **tables, seed=seed, federation={"batch_size": size, "clients": 2}, knows=("batch-size",)
            )
            masked = truth.draws[0]["task.masked"]
            if masked.any(1).all() and not masked.all(1).any():
                return observation, truth
        raise AssertionError("no seed gives such texts")

    return build
