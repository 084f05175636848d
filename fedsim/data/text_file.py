"""Your own text: a UTF-8 file with documents separated by empty lines, or a folder of .txt files.

Source: none (no arXiv id). An example is a sentence; its owner is the document. Leakage: the whole text, so fedsim
copies none of it except into reports, which show the attacked sentences.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from fedsim.core.errors import FedsimError
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._text import TextConfig, read_text, tokenise

_EMPTY_LINE = re.compile(r"\n\s*\n")


class TextFileConfig(TextConfig):
    """Settings of text-file."""

    path: Path = Field(description="a UTF-8 file, or a folder with a .txt file per document")


@dataset("text-file", summary="your own text: documents of a file, or the files of a folder")
def text_file(config: TextFileConfig) -> Dataset:
    """Load the text.

    Raises:
        FedsimError: the file does not exist, has no text, is not UTF-8, or has fewer than two documents.
    """
    return tokenise(config, _documents(config.path))


def _documents(path: Path) -> list[str]:
    if path.is_file():
        return [document for document in _EMPTY_LINE.split(read_text(path)) if document.strip()]
    if not path.is_dir():
        raise FedsimError(f"no file or folder {path}: expected UTF-8 text.")
    files = sorted(path.glob("*.txt"))
    if not files:
        raise FedsimError(f"{path} holds no .txt file: expected a file per document.")
    return [read_text(file) for file in files]
