"""Tables of a scenario on sentences that spans tell apart."""

from pathlib import Path
from typing import Any

import pytest

from tests.attacks.text.texts import KNOWN


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    words = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them", "when", "it", "ends"]
    documents = [" ".join(words[(5 * d + k * (d % 4 + 1)) % 13] for k in range(7)) + "." for d in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    return {
        "data": {"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 10, "words": 30},
        "model": {"name": "tiny-llama", "width": 64, "hidden": 64},
        "threat": {"knows": list(KNOWN)},
    }
