"""Rate of vague words in docstrings, comments and pages, and numerals of pages: `python -m tests.prose [PATH ...]`.

A vague word is a pronoun or a verb that replaces a term of the field. Opacus, sbi and optax have 3 to 4 of them in
1,000 words of docstring. A numeral outside of code and of rendered tables and values may contradict the results. The
figures inform; no test depends on them.
"""

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

VAGUE = frozenset(
    {"what", "who", "whose", "whom", "those", "one", "ones", "somebody", "nobody", "anybody", "whoever", "whatever"}
    | {"there", "told", "tells", "tell", "asked", "asks", "stands", "stand", "beside", "takes", "taken"}
)
_FOLDERS = ("fedsim", "attacks", "defenses", "docs", "README.md", "CONTRIBUTING.md")
_WORST = 25  # sentences that are printed
_WORD = re.compile(r"[A-Za-z']+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_NUMERAL = re.compile(r"(?<![\w.])\d[\d,.]*(?!\w)")
_RENDERED = re.compile(r"<!-- [a-z]+: ?[^\n]*?-->.*?<!-- end -->|<!-- [a-z]+ -->.*?<!-- end -->", re.DOTALL)
_CODE = re.compile(r"```.*?```|<!--.*?-->|\]\([^)]*\)|`[^`]*`", re.DOTALL)


class Prose(NamedTuple):
    """A text of a file with its line and kind."""

    path: Path
    line: int
    kind: str
    text: str


def texts_of(path: Path) -> Iterator[Prose]:
    """Yield docstrings and comments of a Python file, or a page without code, rendered parts and link targets."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield Prose(path, 1, "page", _CODE.sub(" ", _RENDERED.sub(" ", source)))
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc is not None:
                yield Prose(path, node.body[0].lineno, "docstring", doc)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "#!", "# pragma")):
            yield Prose(path, token.start[0], "comment", token.string)


def vague_words(text: str) -> tuple[int, int]:
    """Return the number of vague words and of all words."""
    words = [word.lower() for word in _WORD.findall(text)]
    return sum(word in VAGUE for word in words), len(words)


def main(arguments: list[str]) -> None:
    """Print the rate of each folder and kind, the sentences with the most vague words, and the numerals of pages."""
    roots = [Path(argument) for argument in arguments or _FOLDERS]
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*.*")))]
    texts = [text for file in files if file.suffix in (".py", ".md") for text in texts_of(file)]
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for text in texts:
        vague, words = vague_words(text.text)
        counts[str(text.path.parent), text.kind][0] += vague
        counts[str(text.path.parent), text.kind][1] += words
    for (folder, kind), (vague, words) in sorted(counts.items()):
        print(f"{folder:45} {kind:10} {words:7} words {1000 * vague / max(words, 1):6.1f} vague per 1,000")
    sentences = [(vague_words(part)[0], text, part) for text in texts for part in _SENTENCE_END.split(text.text)]
    for vague, text, part in sorted(sentences, key=lambda row: -row[0])[:_WORST]:
        print(f"{vague:3} {text.path}:{text.line} [{text.kind}] {' '.join(part.split())[:240]}")
    numerals = {text.path: len(_NUMERAL.findall(text.text)) for text in texts if text.kind == "page"}
    print(f"{sum(numerals.values())} numerals outside of code and rendered parts; most of them:")
    for path, count in sorted(numerals.items(), key=lambda entry: -entry[1])[:_WORST]:
        print(f"{count:3} {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
