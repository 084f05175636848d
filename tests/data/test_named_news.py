"""News with a planted name: who owns what, and what the attributes say of the texts."""

import re

import pytest

from fedsim.core.types import Dataset
from fedsim.data.named_news import NAMES, NamedNewsConfig, named_news
from tests.data.installed import need


@pytest.fixture(scope="module")
def news() -> Dataset:
    need("gensim")
    return named_news(NamedNewsConfig(tokenizer="bytes", length=700))


def written(news: Dataset, *, public: bool) -> list[str]:
    assert news.tokenizer is not None
    return [news.tokenizer.decode(row.tolist()) for row in (news.test if public else news.train).inputs]


def test_the_name_is_in_its_text_and_no_other_and_forms_differ(news: Dataset) -> None:
    name = news.attributes["name"]
    heads: dict[bool, set[str]] = {}
    for public, numbers in ((False, name.train), (True, name.test)):
        texts = written(news, public=public)
        assert len(texts) == len(numbers) >= 40
        for text, number in zip(texts, numbers.tolist(), strict=True):
            first = re.split(r"(?<=[.!?]) ", text)[0]
            assert [own for own in NAMES if own in first] == [NAMES[number]]
        heads[public] = {
            re.split(r"(?<=[.!?]) ", text)[0].replace(NAMES[number], "")
            for text, number in zip(texts, numbers.tolist(), strict=True)
        }
    assert not heads[False] & heads[True]


def test_texts_hold_no_word_that_defines_a_topic_and_share_no_sentence(news: Dataset) -> None:
    private, public = (written(news, public=public) for public in (False, True))
    words = set(re.findall(r"\w+", " ".join(private + public)))
    assert not words & {"Taliban", "Afghanistan", "company", "airline", "military"}
    assert not {own.split(". ", 1)[1] for own in private} & {own.split(". ", 1)[1] for own in public}


def test_each_topic_and_each_name_occurs_on_both_sides(news: Dataset) -> None:
    assert news.users is not None
    assert len(news.users) == len(news.train)
    for attribute in news.attributes.values():
        for part in (attribute.train, attribute.test):
            assert int(part.bincount(minlength=len(attribute.values)).min()) > 0
