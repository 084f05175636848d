"""Shipped scenarios are valid, and say what to expect."""

from pathlib import Path

import pytest

from fedsim.experiment.expectation import read_expected
from fedsim.scenario import load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_scenarios_are_valid_and_say_what_to_expect(path: Path) -> None:
    scenario = load(path)
    assert scenario.minutes is not None
    head = path.read_text().partition("title")[0]
    assert "Purpose" in head
    assert "Expected" in head or read_expected(path).figures
