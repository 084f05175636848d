"""What README and the tutorial show works as they say."""

import re
from pathlib import Path
from typing import Any

import pytest

from fedsim.audit.loading import load_subject
from fedsim.audit.subject import check_subject

REPOSITORY = Path(__file__).parent.parent


def example(page: str) -> dict[str, Any]:
    """Run the one example of a page, and return what it defines."""
    (block,) = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / page).read_text(), flags=re.S | re.M)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, page, "exec"), names)
    return names


def test_the_client_of_readme_can_be_audited() -> None:
    subject = check_subject(load_subject(example("README.md")["make_client"], "make_client"), "make_client")
    assert len(subject.dataset.train) == 128
    assert subject.is_cross_entropy


def test_the_gradient_of_the_tutorial_gives_its_image_back(capsys: pytest.CaptureFixture[str]) -> None:
    example("docs/tutorial.md")
    printed = capsys.readouterr().out
    assert printed.startswith("won: closed-form-linear, which explains the gradient exactly")
    difference, label = re.findall(r"tensor\(\[?([0-9.e-]+)", printed)
    assert float(difference) < 1e-5
    assert label == "3"
