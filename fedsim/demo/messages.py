"""Texts of the teaching pages: a TOML file per language, all with the same keys."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from fedsim.core.errors import FedsimError
from fedsim.core.glossary import TERMS

Language = Literal["en", "de", "fr"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_WORDS = "words."


def language_of(name: str) -> Language:
    """Return the language of that name.

    Raises:
        FedsimError: the language is unknown.
    """
    for language in LANGUAGES:
        if language == name:
            return language
    raise FedsimError(f"--language {name}: unknown language. Known: {', '.join(LANGUAGES)}.")


@cache
def messages(language: Language) -> dict[str, str]:
    """Return every message by its key, such as ``story.1.title``.

    English definitions come from the glossary; another language defines the words in use in its own file.
    """
    name = f"messages/{language}.toml"
    flat = _flat(tomllib.loads(files("fedsim.demo").joinpath(name).read_text(encoding="utf-8")))
    return flat | {f"{_WORDS}{word}": meaning for word, meaning in TERMS.items()} if language == "en" else flat


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, str]:
    texts: dict[str, str] = {}
    for key, value in table.items():
        place = f"{prefix}{key}"
        texts |= _flat(value, f"{place}.") if isinstance(value, dict) else {place: value}
    return texts
