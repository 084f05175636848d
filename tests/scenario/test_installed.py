"""Everything that is not installed is named at once, before anything runs."""

from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.core import registry
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.types import Config, Dataset, InputSpec
from fedsim.scenario import Choice, parse
from fedsim.scenario.installed import check_installed

TABLES: dict[str, Any] = {
    "title": "t",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 8},
    "federation": {"clients": 2},
}
BOTH = "the first set is not installed. Get it with:\n  pip install first\nthe second model is not installed"


@pytest.fixture(autouse=True)
def _methods(own_methods: None) -> None:
    """A data set and a model of an extra, both without the package that they need."""

    @registry.dataset("first", summary="a set that is missing")
    def first(config: Config) -> Dataset:
        raise MissingExtra("the first set", "pip install first")

    @registry.model("second", summary="a model that is missing", extra="llm")
    def second(config: Config, spec: InputSpec) -> Any:
        raise MissingExtra("the second model", "pip install second")


def test_a_run_names_what_each_of_its_arms_lacks(tmp_path: Path) -> None:
    arms = {"which": {"one": {"data": {"name": "first"}}, "two": {"model": {"name": "second"}}, "three": {}}}
    with pytest.raises(FedsimError, match=BOTH):
        fedsim.run({**TABLES, "arms": arms}, out=tmp_path / "r")
    assert not list((tmp_path / "r").glob("record.json"))


def test_a_sweep_begins_no_run_without_what_the_last_one_needs(tmp_path: Path) -> None:
    grid = {"which": {"three": {}, "one": {"data": {"name": "first"}}, "two": {"model": {"name": "second"}}}}
    with pytest.raises(FedsimError, match=BOTH):
        fedsim.sweep({**TABLES, "sweep": {"grid": grid}}, out=tmp_path / "s", jobs=1)
    assert not list((tmp_path / "s" / "runs").glob("*"))


def test_functions_of_the_users_own_and_other_mistakes_are_left_to_the_runs() -> None:
    @registry.dataset("broken", summary="a set that fails in its own way")
    def broken(config: Config) -> Dataset:
        raise ValueError("mine")

    for name in ("nowhere:load", "broken"):
        check_installed([parse(TABLES, "s").model_copy(update={"data": Choice(name=name, settings={})})])
