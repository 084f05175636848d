"""What `fedsim new attack` writes, at work in a run."""

import sys
import tomllib
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.cli.templates import write_new
from fedsim.core.errors import FedsimError
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
        (tmp_path / "fedsim" / "__init__.py").touch()
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


@pytest.mark.parametrize(("kind", "family"), [("attack", None), ("defense", "noise"), ("component", "decoder")])
def test_outside_of_a_checkout_a_package_is_written_around_the_method(
    kind: Any, family: str | None, tmp_path: Path
) -> None:
    path = write_new(kind, f"my-{kind}", tmp_path, family)
    assert path == tmp_path / f"my-{kind}" / f"fedsim_my_{kind}.py"
    compile(path.read_text(), str(path), "exec")
    about = tomllib.loads((path.parent / "pyproject.toml").read_text())
    assert about["project"]["entry-points"] == {f"fedsim.{kind}s": {f"my-{kind}": f"fedsim_my_{kind}"}}
    with pytest.raises(FedsimError, match="exists already. Choose another name"):
        write_new(kind, f"my-{kind}", tmp_path, family)


def test_a_family_that_is_none_leaves_no_package_behind(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="no family 'nose' of defenses"):
        write_new("defense", "my-defense", tmp_path, "nose")
    assert not list(tmp_path.iterdir())
