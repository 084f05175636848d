from __future__ import annotations

from pathlib import Path

from fedsim.core.glossary import TERMS, as_markdown

PAGE = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_the_page_is_what_the_program_shows() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown()


def test_terms_are_in_order_and_each_meaning_is_a_sentence() -> None:
    assert list(TERMS) == sorted(TERMS)
    assert all(meaning[0].isupper() and meaning.endswith(".") for meaning in TERMS.values())
