"""A kind is one class: found in its folder or by an entry point, and asked in turn whether it recognises a thing."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim.audit import adapters
from fedsim.audit.loading import load_subject
from fedsim.core.errors import FedsimError

MODULE = """
from dataclasses import dataclass

import torch
from torch import nn

from fedsim.audit.adapters import SubjectAdapter, adapter
from fedsim.audit.subject import Subject


class Recipe:
    layers = 2
    error = ZeroDivisionError("no layer,\\nno recipe")


@adapter
class OfRecipes(SubjectAdapter):
    input_description = "a recipe"

    @classmethod
    def matches(cls, thing):
        return isinstance(thing, Recipe)

    def subject(self):
        if self.client.layers < 1:
            raise self.client.error
        return Subject(nn.Linear(4, 2), None, [(torch.rand(8, 4), torch.arange(8) % 2)])

    def input_summary(self):
        return f"a recipe of {self.client.layers} layers"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that adds a kind, as pip would leave it."""
    (tmp_path / "recipes.py").write_text(MODULE)
    about = tmp_path / "recipes-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: recipes\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedsim.adapters]\nrecipes = recipes\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    adapters.adapters()  # fedsim's own stay
    before = list(adapters._ADAPTERS)
    adapters._discover.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    adapters._ADAPTERS[:] = before
    adapters._discover.cache_clear()
    adapters._discover()
    sys.modules.pop("recipes", None)


def test_every_file_of_the_folder_is_a_kind() -> None:
    names = {kind.__module__.rpartition(".")[2] for kind in adapters.adapters()}
    folder = Path(adapters.__file__).parent
    assert names == {file.stem for file in folder.glob("*.py") if not file.name.startswith("_")}


def test_a_package_adds_a_kind_by_an_entry_point(installed: Path) -> None:
    assert "OfRecipes" in {kind.__name__ for kind in adapters.adapters()}
    import recipes  # type: ignore[import-not-found]

    subject = load_subject(recipes.Recipe(), "kitchen:recipe")
    assert subject.notes == ("Understood: a recipe of 2 layers.",)
    made_by_function = load_subject(recipes.Recipe, "kitchen:make")
    assert made_by_function.notes == subject.notes
    with pytest.raises(FedsimError, match=r"An audit also accepts the folder .*; a recipe\."):
        load_subject(3, "kitchen:three")


def test_an_adapter_that_fails_is_one_sentence(installed: Path) -> None:
    adapters.adapters()
    import recipes  # type: ignore[import-not-found]

    recipe = recipes.Recipe()
    recipe.layers = 0
    with pytest.raises(FedsimError, match="'kitchen:recipe' was taken for a recipe, but ZeroDivisionError") as raised:
        load_subject(recipe, "kitchen:recipe")
    assert "\n" not in str(raised.value)
    recipe.error = MemoryError()
    with pytest.raises(MemoryError):
        load_subject(recipe, "kitchen:recipe")


def test_a_package_that_cannot_be_imported_is_named(installed: Path) -> None:
    (installed / "recipes.py").write_text("import no_such_package\n")
    with pytest.raises(FedsimError, match="adapter 'recipes' .* cannot be imported: .*Repair or uninstall"):
        adapters.adapters()
