"""The page "Writing an attack", block after block."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "writing-an-attack.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def test_every_block_of_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_methods: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    names = {"__name__": __name__}
    for block in _BLOCK.finditer(text):
        exec(compile("\n" * text[: block.start(1)].count("\n") + block.group(1), str(PAGE), "exec"), names)
    assert capsys.readouterr().out.startswith("Reconstruction(1 example of 1 x 8 x 8, labels [3]")
