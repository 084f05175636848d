from __future__ import annotations

from pathlib import Path

from fedsim.core.glossary import TERMS

PAGE = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_the_page_has_the_terms_of_the_program() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert rows == ["| word | meaning |", "|---|---|", *(f"| {term} | {meaning} |" for term, meaning in TERMS.items())]


def test_terms_are_in_order_and_each_meaning_is_a_sentence() -> None:
    assert list(TERMS) == sorted(TERMS)
    assert all(meaning[0].isupper() and meaning.endswith(".") for meaning in TERMS.values())
