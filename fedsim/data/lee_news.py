"""300 news reports of the Australian Broadcasting Corporation, about 60,000 words, from gensim.

Source: Lee, Pincombe, Welsh 2005, background corpus (no arXiv id). An example is a sentence; its owner is the report.
Leakage: names of places and people, which occur in few reports each.
"""

from __future__ import annotations

from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._shipped import news_file
from fedsim.data._text import TextConfig, read_text, tokenise


class LeeNewsConfig(TextConfig):
    """Settings of lee-news."""


@dataset("lee-news", summary="2,000 sentences of 300 news reports from gensim")
def lee_news(config: LeeNewsConfig) -> Dataset:
    """Load the reports.

    Raises:
        MissingExtra: gensim is not installed.
    """
    return tokenise(config, read_text(news_file()).splitlines())
