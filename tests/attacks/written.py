"""Tables of a scenario on sentences of thirteen words, with a tiny Llama; no sentence is as long as it may be."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedsim.core.types import Observation, Truth
from tests.federating import watched

_FOLDER = TemporaryDirectory()
_WORDS = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them", "when", "it", "ends"]
_TEXT = Path(_FOLDER.name, "text.txt")
_TEXT.write_text(
    "\n\n".join(" ".join(_WORDS[(5 * d + k * (d % 4 + 1)) % 13] for k in range(7)) + "." for d in range(20))
)

WRITTEN: dict[str, Any] = {
    "data": {"name": "text-file", "path": str(_TEXT), "length": 10, "words": 30},
    "model": {"name": "tiny-llama", "width": 64, "hidden": 64},
}
_MASKED = {"name": "tiny-llada", "width": 64, "hidden": 64, "blocks": 2}
TABLES: dict[str, Any] = {**WRITTEN, "threat": {"knows": ["batch-size", "dropout-rates"]}}


def masked_texts(size: int) -> tuple[Observation, Truth]:
    """Gradients of texts of seven words each of which has masked places, and visible ones."""
    tables = {"data": {**WRITTEN["data"], "length": 7}, "model": _MASKED, "task": "masked-diffusion"}
    for seed in range(20):
        federation = {"batch_size": size, "clients": 2}
        observation, truth, _ = watched(**tables, seed=seed, federation=federation, knows=("batch-size",))
        masked = truth.draws[0]["task.masked"]
        if masked.any(1).all() and not masked.all(1).any():
            return observation, truth
    raise AssertionError("no seed gives such texts")


def masked_client() -> tuple[Observation, Truth]:
    """A client's gradient of a model that fills in masked places, on two sentences."""
    tables = {"data": WRITTEN["data"], "model": _MASKED, "task": "masked-diffusion"}
    return watched(**tables, federation={"batch_size": 2}, knows=("batch-size",))[:2]
