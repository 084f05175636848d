"""Few sentences of few words, which a small model learns by heart."""

from pathlib import Path

WORDS = ("rain", "fell", "over", "the", "green", "river", "today", "and", "nobody", "saw", "it", "again")


def write_sentences(path: Path, count: int) -> Path:
    """Write so many sentences, a paragraph each."""
    sentences = [f"{' '.join(WORDS[n % 5 : n % 5 + 4 + n % 3])} {WORDS[n % 12]}." for n in range(count)]
    path.write_text("\n\n".join(sentences), encoding="utf-8")
    return path
