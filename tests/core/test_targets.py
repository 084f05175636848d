"""What is named is looked up, and nothing is imported."""

import sys
from pathlib import Path

import pytest

from fedsim.core import targets
from fedsim.core.errors import FedsimError
from fedsim.core.targets import Target


def test_a_function_of_a_module_of_a_file_or_the_folder_of_an_app_is_found(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("raise RuntimeError")
    assert targets.find("json.tool:main") == Target("json.tool", "main")
    assert targets.find("json.tool:main") == ("json.tool", "main")
    found = targets.find(f"{file}:make")
    assert isinstance(found, Target)
    assert (found.file, found.attribute) == (file, "make")
    assert targets.find(str(tmp_path)) == tmp_path
    assert targets.find("an.fab") == Path("an.fab")
    assert "train" not in sys.modules


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("clients", "'clients' names nothing to audit"),
        (":make", "':make' names nothing to audit"),
        ("no_such_module.sub:make", "module 'no_such_module' not found. Run from the folder"),
        ("no_such.py:make", "no file no_such.py for 'no_such.py:make'"),
    ],
)
def test_what_is_not_there_is_one_sentence(target: str, message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        targets.find(target)
