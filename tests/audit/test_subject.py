"""How the audited function is found."""

import sys
from pathlib import Path

import pytest

from fedsim.audit import subject
from fedsim.core.errors import FedsimError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "beside_it.py").write_text("ANSWER = 7\n")
    (tmp_path / "project" / "train_here.py").write_text("from beside_it import ANSWER\ndef make(): return ANSWER\n")
    return tmp_path


def test_a_function_is_found_in_a_file_with_what_lies_beside_it(folder: Path) -> None:
    assert subject.found("project/train_here.py:make")() == 7
    assert subject.found(f"{folder}/project/train_here.py:make")() == 7


def test_a_missing_file_or_a_taken_name_is_a_users_mistake(folder: Path) -> None:
    with pytest.raises(FedsimError, match=r"there is no file project/trian.py for 'project/trian.py:make'"):
        subject.found("project/trian.py:make")
    (folder / "json.py").write_text("def make(): ...\n")
    with pytest.raises(FedsimError, match="has the name of module 'json', which is loaded already"):
        subject.found("json.py:make")
