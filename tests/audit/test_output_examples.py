"""The examples of scenarios/46_audit_outputs, as their README audits them: each gives example and target back."""

import re
from pathlib import Path

import pytest

from fedsim.audit.loading import load, made
from tests.audit.adapters.recovering import attacked

FOLDER = Path(__file__).parents[2] / "scenarios" / "46_audit_outputs"
READ = {
    "outputs.py:make_regression": "target_read",
    "outputs.py:make_multi_label": "set_read",
    "outputs.py:make_segmentation": "mask_iou",
    "outputs.py:make_series": "target_read",
    "outputs.py:make_heads": "heads_read",
    "outputs.py:make_recurrent": "target_read",
    "outputs.py:make_detector": "heads_read",
}


@pytest.mark.parametrize("target", READ)
def test_one_example_comes_back_with_its_target(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))
    finding = attacked(made(load(target), target))
    assert finding.value is not None
    assert finding.value.value == 1.0
    assert [victim.scores[0].values[READ[target]] for victim in finding.victims] == [1.0, 1.0]


def test_the_readme_names_every_example() -> None:
    assert re.findall(r"^fedsim audit (\S+)", (FOLDER / "README.md").read_text(), re.MULTILINE) == list(READ)
