"""What `fedsim new` writes, imported and at work in a run."""

import sys
import tomllib
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import fedsim
from fedsim.cli.templates import Like, NewKind, families, write_new
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.record import VictimRecord

TABLES: dict[str, Any] = {
    "title": "new",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25, "bias": True},
    "federation": {"clients": 2},
    "attacks": [{"name": "my-own"}],
}


def imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a file under its own name, for one test."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_methods: None) -> Callable[..., VictimRecord]:
    """Write an attack, register it, and return what it made of a client of a small scenario."""

    def attacked(like: Any, **tables: Any) -> VictimRecord:
        (tmp_path / "fedsim").mkdir()
        (tmp_path / "fedsim" / "__init__.py").touch()
        imported(write_new("attack", "my-own", tmp_path, None, like)[0], monkeypatch)
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
    assert found.diagnostics["tokens found"] >= 5


@pytest.mark.parametrize(
    ("kind", "family", "like"),
    [
        *(("attack", None, like) for like in get_args(Like)),
        *(("defense", family.name, None) for family in families("defense")),
        *(("component", family.name, None) for family in families("component")),
        ("metric", None, None),
        ("question", None, None),
        ("task", None, None),
    ],
)
@pytest.mark.usefixtures("own_methods")
def test_outside_of_a_checkout_a_package_is_written_around_the_method_and_its_test(
    kind: NewKind, family: str | None, like: Like | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, test = write_new(kind, "my-own", tmp_path, family, like)
    assert (method, test) == (tmp_path / "my-own" / "fedsim_my_own.py", tmp_path / "my-own/tests/test_my_own.py")
    about = tomllib.loads((method.parent / "pyproject.toml").read_text())
    name = "my_own" if kind == "metric" else "my-own"
    assert about["project"]["entry-points"] == {f"fedsim.{kind}s": {name: "fedsim_my_own"}}
    imported(method, monkeypatch)
    assert registry.entries(kind)[name].module == "fedsim_my_own"
    tests = [made for key, made in vars(imported(test, monkeypatch)).items() if key.startswith("test_")]
    assert tests
    for quick in (made for made in tests if not signature(made).parameters):
        quick()
    with pytest.raises(FedsimError, match="exists already"):
        write_new(kind, "my-own", tmp_path, family, like)


def test_a_package_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    write_new("defense", "my-defense", tmp_path)
    with pytest.raises(FedsimError, match="my-defense exists already. Choose another name"):
        write_new("defense", "my-defense", tmp_path, "noise")


def test_a_family_that_is_none_leaves_no_package_behind(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="unknown family 'nose' of defenses"):
        write_new("defense", "my-defense", tmp_path, "nose")
    assert not list(tmp_path.iterdir())
