"""The page "Writing an attack", block after block."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "writing-an-attack.md"


def test_every_block_of_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_methods: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    blocks = [(match.group(1), text[: match.start(1)].count("\n")) for match in
              re.finditer(r"^```python\n(.*?)^```", text, flags=re.S | re.M)]  # fmt: skip
    names = {"__name__": __name__}
    for block, line in blocks:
        exec(compile("\n" * line + block, str(PAGE), "exec"), names)
    assert capsys.readouterr().out.startswith("Reconstruction(1 example of 1 x 8 x 8, labels [3]")


def test_plain_dlg_takes_thirty_lines() -> None:
    search = re.search(r"    def search\(.*?(?=\n\n    def labels)", PAGE.read_text(), flags=re.S)
    assert search is not None
    assert len([line for line in search.group(0).splitlines() if line.strip()]) <= 30
