"""The process that runs the user's code sends a mistake as a sentence."""

from pathlib import Path

import pytest

from fedsim.applicability.targets import overview_of_target
from fedsim.core.errors import FedsimError


def test_a_factory_that_raises_is_a_mistake_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def make():\n    raise ValueError('no data today')\n")
    with pytest.raises(FedsimError, match="no data today"):
        overview_of_target(f"{tmp_path / 'broken.py'}:make", 1, (), 0.0)
