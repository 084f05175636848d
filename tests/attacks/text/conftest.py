"""Tables of a scenario on sentences that spans tell apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.types import Observation, Truth
from tests.attacks.text.texts import KNOWN


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    words = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them", "when", "it", "ends"]
    documents = [" ".join(words[(5 * d + k * (d % 4 + 1)) % 13] for k in range(7)) + "." for d in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    return {
        "data": {"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 10, "words": 30},
        "model": {"name": "tiny-llama", "width": 64, "hidden": 64},
        "threat": {"knows": list(KNOWN)},
    }


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
