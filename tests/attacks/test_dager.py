"""DAGER on a tiny Llama: every sentence exactly, and a reason where it does not apply."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim import registry, seeding
from fedsim.errors import NotApplicable
from fedsim.metrics.text import score_sentences
from fedsim.types import Observation, Reconstruction, Truth
from fedsim.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
KNOWN = ("batch-size", "dropout-rates")


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


def attacked(observation: Observation) -> Reconstruction:
    method = registry.get("attack", "dager")
    return method.make(method.config())(observation, seeding.generator(0, "attack"))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_sentence_of_a_batch_is_exact(batch_size: int, watched: Watched, tables: dict[str, Any]) -> None:
    federation = {"clients": 2, "batch_size": batch_size}
    observation, truth, world = watched(knows=KNOWN, **tables, federation=federation)
    assert world.dataset.tokenizer is not None
    scored = score_sentences(attacked(observation), truth.private[0], world.dataset.tokenizer)
    assert [own.exact for own in scored.sentences] == [True] * batch_size


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"name": "tiny-llama", "width": 64, "dropout": 0.1}}, "dropout changes what the layers read"),
        ({"model": {"name": "tiny-llama", "width": 64, "blocks": 1}}, "the model has no linear layers"),
        ({"defenses": [{"name": "gradient-noise", "scale": 1e-3}]}, "has full rank 64: too many tokens, or noise"),
    ],
)
def test_it_says_why_it_does_not_apply(
    changes: dict[str, Any], reason: str, watched: Watched, tables: dict[str, Any]
) -> None:
    observation, _, _ = watched(knows=KNOWN, **{**tables, **changes}, federation={"clients": 2, "batch_size": 1})
    with pytest.raises(NotApplicable, match=reason):
        attacked(observation)
