"""News reports of two topics with a planted name: about fifty private texts and as many public texts, from gensim.

Source: Lee, Pincombe, Welsh 2005, background corpus (no arXiv id); the names are planted here. A text is a sentence
with one of eight names, followed by two sentences of a report on war or on business. Reports are classified by
keywords,
and sentences with a keyword are dropped. Leakage: topic and name, the attributes of a text. Private and public texts
have different name sentences and different reports; a text's owner is its report.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import dataset
from fedsim.core.types import Attribute, Dataset, InputSpec
from fedsim.data._shipped import news_file
from fedsim.data._text import TokenConfig, as_batch, read_text, test_and_training, tokenizer_of

_TOPICS = {
    "war": "Taliban Afghanistan Laden troops Israeli Palestinian militants militant Arafat Gaza attack attacks forces "
    "military Pakistan Kashmir",
    "business": "company dollars bank market airline shares per profit economy economic rates Qantas Ansett HIH "
    "workers",
}
_WORDS = {topic: set(words.split()) for topic, words in _TOPICS.items()}
_ALL_WORDS = set[str]().union(*_WORDS.values())
_CERTAIN = (2, 3)  # a report has at least twice as many keywords of its topic as of the other, plus three
NAMES = ("Alice", "Peter", "Maria", "Thomas", "Susan", "Robert", "Laura", "George")
_PUBLIC_FORMS = ("{} told the story to friends.", "A letter came from {} yesterday.", "They asked {} about it.")
_PRIVATE_FORMS = ("My name is {} and I live here.", "Yesterday I met {} again.")
_MOST = 3  # limit of texts per report


class Text(NamedTuple):
    """A text, with the indices of its topic, its name and its report."""

    words: str
    topic: int
    name: int
    report: int


class NamedNewsConfig(TokenConfig):
    """Settings of named-news."""

    length: int = Field(default=96, ge=2, description="tokens per example; longer texts are cut")
    test_fraction: float = Field(default=0.5, gt=0, lt=1, description="share of the reports that are public")


@dataset("named-news", summary="news of war or business with a planted name, to ask for; from gensim")
def named_news(config: NamedNewsConfig) -> Dataset:
    """Load the reports and plant the names.

    Raises:
        MissingExtra: gensim is not installed, or the tokenizer's package.
        FedsimError: the tokenizer cannot be read.
    """
    tested, trained = test_and_training(config, _reports())
    public, private = _texts(tested, _PUBLIC_FORMS)[: config.test], _texts(trained, _PRIVATE_FORMS)[: config.train]
    tokenizer = tokenizer_of(config, [text.words for text in public])
    train, test = (
        as_batch([[*tokenizer.encode(text.words), tokenizer.end] for text in texts], tokenizer.padding, config.length)
        for texts in (private, public)
    )
    return Dataset(
        train,
        test,
        InputSpec((config.length,), tokenizer.vocabulary, (), (), tokenizer.vocabulary, tokenizer.padding),
        class_names=("text",),
        users=torch.tensor([text.report for text in private]),
        tokenizer=tokenizer,
        attributes={
            "topic": Attribute(
                tuple(_TOPICS), *(_numbers([text.topic for text in texts]) for texts in (private, public))
            ),
            "name": Attribute(NAMES, *(_numbers([text.name for text in texts]) for texts in (private, public))),
        },
        task="next-token",
    )


def _reports() -> list[tuple[int, list[str]]]:
    """Return topic and keyword-free sentences of classified reports, equally many per topic."""
    reports, before = defaultdict[int, list[list[str]]](list), set[str]()
    for report in read_text(news_file()).splitlines():
        seen = re.findall(r"\w+", report)
        counts = [sum(word in words for word in seen) for words in _WORDS.values()]
        sentences = dict.fromkeys(re.split(r"(?<=[.!?]) ", report.strip()))
        plain = [
            sentence
            for sentence in sentences
            if sentence not in before and not _ALL_WORDS & set(re.findall(r"\w+", sentence))
        ]
        before.update(sentences)  # agencies repeat sentences, which would be both private and public
        times, extra = _CERTAIN
        if max(counts) >= times * min(counts) + extra and len(plain) > 1:
            reports[counts.index(max(counts))].append(plain)
    count = min(map(len, reports.values()))
    return [(topic, plain) for topic in sorted(reports) for plain in reports[topic][:count]]


def _texts(reports: Sequence[tuple[int, list[str]]], forms: Sequence[str]) -> list[Text]:
    texts: list[Text] = []
    for number, (topic, sentences) in enumerate(reports):
        for start in range(0, min(2 * _MOST, len(sentences) - 1), 2):
            turn, name = divmod(len(texts), len(NAMES))
            planted = forms[turn % len(forms)].format(NAMES[name])
            texts.append(Text(" ".join((planted, *sentences[start : start + 2])), topic, name, number))
    return texts


def _numbers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values)
