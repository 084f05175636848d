"""Every language says everything: the same keys, placeholders and explained words; and everything is shown."""

import re

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.glossary import TERMS
from fedsim.demo.messages import LANGUAGES, language_of, messages
from fedsim.demo.page import text_of

PLACEHOLDER = re.compile(r"\{(\w+)\}")
MARKED = re.compile(r"\[[^\]]+\]\(([^)]+)\)")
FILES = (
    "explore.js", "guess.js", "live.html.j2", "live.js", "live.py", "page.html.j2", "page.js", "quiz.js", "shared.js",
    "sliders.html.j2", "story.html.j2", "story.js", "terminal.py", "words.js",
)  # fmt: skip
BUILT = (
    "words.",
    "told.",
    "stage.",
    "protection.",
    "attacker.",
    "set.",
    "threat.",
    "grant.",
    "predict.",
    "story.",
    "quiz.digits.",
    "quiz.photographs.",
    "why.",
    "doing.",
)


def test_a_message_has_a_key_and_the_meanings_are_those_of_the_glossary() -> None:
    assert messages("en")["story.7.title"] == "Your turn"
    assert {key: text for key, text in messages("en").items() if key.startswith("words.")} == {
        f"words.{word}": meaning for word, meaning in TERMS.items()
    }


@pytest.mark.parametrize("language", [own for own in LANGUAGES if own != "en"])
def test_languages_have_the_same_keys_placeholders_and_words(language: str) -> None:
    english, other = messages("en"), messages(language_of(language))
    words = {key for key in english if key.startswith("words.")}
    assert english.keys() - words == {key for key in other if key not in words}
    for key in english.keys() - words:
        for pattern in (PLACEHOLDER, MARKED):
            assert sorted(pattern.findall(english[key])) == sorted(pattern.findall(other[key])), key
        assert english[key].count("\n") == other[key].count("\n"), key
    used = {word for text in other.values() for word in MARKED.findall(text)}
    assert {f"words.{word}" for word in used} == other.keys() & words  # each word in use is explained, and no other


def test_every_message_is_shown_somewhere() -> None:
    code = text_of(*FILES)
    unused = [key for key in messages("en") if key not in code and not key.startswith(BUILT)]
    assert unused == []


def test_every_message_that_is_asked_for_exists() -> None:
    tables = "|".join({key.partition(".")[0] for key in messages("en")} - {"words"})
    asked = set(re.findall(rf"""["`]((?:{tables})\.\w+)["`]""", text_of(*FILES)))
    assert len(asked) > 100
    assert asked - {"live.css", "live.js"} <= messages("en").keys()


def test_an_unknown_language_names_those_that_exist() -> None:
    with pytest.raises(FedsimError, match="--language xx: .*Known: en, de, fr"):
        language_of("xx")
