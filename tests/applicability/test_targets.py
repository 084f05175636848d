"""Overviews of import targets, computed in a subprocess."""

from pathlib import Path

import pytest

from fedsim.applicability.targets import overview_of_target
from fedsim.core.errors import FedsimError


def test_a_target_that_ends_its_process_is_reported(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text("import os\n\n\ndef make():\n    os._exit(3)\n")
    with pytest.raises(FedsimError, match="ended the process with exit code 3"):
        overview_of_target(f"{tmp_path / 'gone.py'}:make", 1, (), 0.0)
