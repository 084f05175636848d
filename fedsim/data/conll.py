"""Tagged sentences from your own file, in the format of the CoNLL shared tasks: a token, a tab and its tag per line.

Source: Tjong Kim Sang, De Meulder 2003, arXiv cs/0306050 (the format). A sentence ends at a line with only blanks and
tabs. A line with the token -DOCSTART- begins a document; the document is the owner of its sentences. In a file without
such lines each sentence is its own owner. Leakage: names.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fedsim.core.errors import FedsimError
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._tags import Document, Sentence, build_tagged_set
from fedsim.data._text import TokenConfig, read_text

_BEGINS_DOCUMENT = "-DOCSTART-"
_COLUMNS = 2


class ConllConfig(TokenConfig):
    """Settings of conll."""

    path: Path = Field(description="a UTF-8 file with a token, a tab and its tag per line")


@dataset("conll", summary="your own tagged sentences: entities, parts of speech", paper="cs/0306050")
def conll(config: ConllConfig) -> Dataset:
    """Load the sentences.

    Raises:
        FedsimError: the file does not exist, is not UTF-8, has a line without a token and a tag, or has fewer than two
            sentences.
    """
    return build_tagged_set(config, _documents(config.path))


def _documents(path: Path) -> list[Document]:
    if not path.is_file():
        raise FedsimError(f"no file {path}: expected tagged sentences with a token, a tab and its tag per line.")
    documents: list[list[Sentence]] = []
    are_told = False
    for sentence in _sentences(path):
        begins = [word for word, _ in sentence] == [_BEGINS_DOCUMENT]
        if begins or not are_told:
            documents.append([])
        are_told = are_told or begins
        if not begins:
            documents[-1].append(sentence)
    nonempty: list[Document] = [document for document in documents if document]
    if not nonempty:
        raise FedsimError(f"{path} holds no sentence.")
    return nonempty


def _sentences(path: Path) -> list[Sentence]:
    sentences: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            sentences.append([])
            continue
        columns = line.rstrip("\r").split("\t")
        if len(columns) != _COLUMNS or not columns[0] or not columns[1].strip():
            raise FedsimError(f"{path}, line {number}: expected a token, a tab and a tag, got {line.rstrip()!r}.")
        sentences[-1].append((columns[0], columns[1].strip()))
    return [tuple(sentence) for sentence in sentences if sentence]
