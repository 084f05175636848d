"""The code of the decoders' pages, run as it stands."""

import re
from pathlib import Path

import pytest

from fedsim.core import seeding

PAGES = Path(__file__).parents[3] / "docs" / "components"


@pytest.mark.parametrize(
    ("page", "blocks"),
    [("cntp", 1), ("awrs", 2), ("svdecode", 1), pytest.param("sure-spans", 1, marks=pytest.mark.slow), ("damro", 1)],
)
def test_a_page_runs(page: str, blocks: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.findall(r"^```python\n(.*?)^```", (PAGES / f"{page}.md").read_text(), flags=re.S | re.M)
    assert len(found) == blocks
    names: dict[str, object] = {}
    with seeding.isolate_randomness(0):
        for block in found:
            exec(compile(block, f"{page}.md", "exec"), names)
    text = names["text"]
    assert getattr(text, "ending") in ("stop", "length")  # noqa: B009 - of what the page made
    assert page == "svdecode" or capsys.readouterr().out
