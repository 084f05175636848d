"""What README prints is what it says."""

import re
from pathlib import Path

import pytest


def test_the_python_example_does_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("won: closed-form-linear, which explains the gradient exactly")
    difference, label = re.findall(r"tensor\(\[?([0-9.e-]+)", printed)
    assert float(difference) < 1e-5
    assert label == "3"
