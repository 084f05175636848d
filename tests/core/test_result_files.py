"""A folder of a run or sweep passes; others are refused with their content."""

from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.result_files import AUDIT, RECORD, RELEASE, SWEEP, check_run_or_sweep


@pytest.mark.parametrize("name", [RECORD, SWEEP])
def test_a_run_and_a_sweep_pass_also_beside_an_audit(tmp_path: Path, name: str) -> None:
    for held in (name, AUDIT):
        (tmp_path / held).touch()
    check_run_or_sweep(tmp_path)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("", r"sweep\.$"),
        (AUDIT, r"It holds an audit, .* audit\.html\.$"),
        (RELEASE, r"a release check, .* release\.html"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, name: str, instead: str) -> None:
    (tmp_path / (name or "other.json")).touch()
    with pytest.raises(FedsimError, match=rf"holds no record\.json and no sweep\.json: .*{instead}"):
        check_run_or_sweep(tmp_path)


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="there is no folder"):
        check_run_or_sweep(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(FedsimError, match="is no folder, expected the folder of a run or sweep"):
        check_run_or_sweep(tmp_path / "file")
