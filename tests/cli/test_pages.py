"""What `fedsim show` prints of a method is the same out of the index, which waits for no torch and knows of changes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli import pages
from fedsim.core import registry
from fedsim.core.registry import index
from fedsim.core.registry.method import KINDS

ENTRIES = [entry for kind in KINDS for entry in index.entries_of(kind).values()]
DLG = index.entries_of("attack")["dlg"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with an index in it."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSIM_CACHE", str(cache))
        pages.page_of(DLG)
    return cache


@pytest.mark.parametrize(
    ("name", "setting"),
    [("dia", "mask_weight"), ("dp-sgd", "noise_multiplier"), ("devil", "hidden_places")],
    ids=["attack", "defense", "component"],
)
def test_a_method_is_shown_without_torch_once_there_is_an_index(kept: Path, name: str, setting: str) -> None:
    code = f"import sys, fedsim.cli.main as cli; cli.app(['show', '{name}'], standalone_mode=False)\n"
    code += "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    environment = {**os.environ, "FEDSIM_CACHE": str(kept)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert setting in done.stdout


def test_the_index_is_made_anew_when_a_file_changes_or_it_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    monkeypatch.setattr(index, "HOME", tmp_path)
    source = tmp_path / "attacks" / "mine.py"
    source.parent.mkdir()
    source.write_text("")
    made = iter(("first", "second", "third"))
    monkeypatch.setattr(
        pages, "_build_pages", lambda: {"attack dlg": {"doc": next(made), "grants": [], "settings": [], "example": ""}}
    )
    assert [pages.page_of(DLG).doc for _ in range(2)] == ["first", "first"]
    os.utime(source, ns=(1, 1))
    assert [pages.page_of(DLG).doc for _ in range(2)] == ["second", "second"]
    (tmp_path / "pages.json").write_text("[1]")
    assert pages.page_of(DLG).doc == "third"


def test_where_no_cache_can_be_written_a_method_is_shown_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(pages, "_build_pages", dict)
    assert "gradient" in pages.page_of(DLG).doc
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_method_of_somebody_else_has_no_place_in_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    dlg = registry.get("attack", "dlg")
    monkeypatch.setattr(pages, "_load_pages", dict)
    with registry.temporary():
        registry.attack("of-mine", summary="is mine")(dlg.make)
        (entry,) = registry.find_entries("of-mine")
        assert pages.page_of(entry).settings == pages.page_of(DLG).settings
