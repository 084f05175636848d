"""A scenario that writes texts."""

from pathlib import Path
from typing import Any

from tests.threat.sentences import write_sentences


def tables(tmp_path: Path, **arms: Any) -> dict[str, Any]:
    path = write_sentences(tmp_path / "text.txt", 12)
    return {
        "data": {"name": "text-file", "path": str(path), "words": 30},
        "model": {"name": "tiny-llama", "width": 8, "blocks": 2, "hidden": 8},
        "federation": {"clients": 2, "rounds": 2, "batch_size": 2},
        "threat": {"victims": 1, "knows": [], "keep_updates": False},
        "attacks": [{"name": "word-readout"}],
        "generation": {"max_new_tokens": 3, "texts_per_prompt": 3, "prompts": {"count": 2, "length": 2}},
        "arms": arms,
    }
