"""What `fedsim new attack` writes, at work in a run."""

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.cli.templates import write_new
from fedsim.record import VictimRecord

TABLES: dict[str, Any] = {
    "title": "new",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25, "bias": True},
    "federation": {"clients": 2},
    "attacks": [{"name": "my-own"}],
}


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_methods: None) -> Callable[..., VictimRecord]:
    """Write an attack, register it, and return what it made of a client of a small scenario."""

    def attacked(like: Any, **tables: Any) -> VictimRecord:
        (tmp_path / "fedsim").mkdir()
        spec = spec_from_file_location("my_own", write_new("attack", "my-own", tmp_path, None, like))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "my_own", module)
        spec.loader.exec_module(module)
        (arm,) = fedsim.run({**TABLES, **tables}, out=tmp_path / "run").record.arms
        return arm.attacks[0].victims[0]

    return attacked


def test_the_search_comes_closer_than_where_it_began(victim: Callable[..., VictimRecord]) -> None:
    found = victim("matching", model={**TABLES["model"], "dropout": 0.0})
    assert found.failure is None
    assert found.iterations == 200
    assert found.objective is not None
    assert found.objective < 0.01 * found.history[0][1]  # squared: a tenth of the distance of noise


def test_the_closed_form_is_exact_for_one_example_and_refuses_two(
    victim: Callable[..., VictimRecord], tmp_path: Path
) -> None:
    found = victim("closed-form")
    assert found.failure is None
    assert found.objective is not None
    assert found.objective < 1e-5  # rounding enters 1 - cosine squared; attacks.core calls less than this exact
    assert found.scores[0].values["psnr"] > 60
    two = fedsim.run({**TABLES, "federation": {"clients": 2, "batch_size": 2}}, out=tmp_path / "two").record
    assert two.arms[0].attacks[0].victims[0].failure == "the update mixes 2 examples; this equation needs one"


def test_the_reader_of_text_finds_the_tokens(victim: Callable[..., VictimRecord], tmp_path: Path) -> None:
    words = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them", "when", "it", "ends"]
    documents = [" ".join(words[(5 * d + k * (d % 4 + 1)) % 13] for k in range(7)) + "." for d in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    found = victim(
        "text",
        data={"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 10, "words": 30},
        model={"name": "tiny-llama", "width": 16, "hidden": 16},
        threat={"knows": ["batch-size", "dropout-rates"]},
    )
    assert found.failure is None
    assert found.facts["tokens found"] >= 5
