"""The news of Lee: its size, one owner a report, and no import of its package."""

import sys

import pytest

from fedsim.core.errors import MissingExtra
from fedsim.data.lee_news import LeeNewsConfig, lee_news
from tests.data.installed import need


def test_three_hundred_reports_are_read_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    need("gensim")
    monkeypatch.delitem(sys.modules, "gensim", raising=False)
    dataset = lee_news(LeeNewsConfig())
    assert "gensim" not in sys.modules
    assert dataset.users is not None
    assert len(dataset.users.unique()) in range(200, 301)  # the others are tested on
    assert 1500 < len(dataset.train) + len(dataset.test) < 3000
    again = lee_news(LeeNewsConfig())
    assert dataset.train.inputs.equal(again.train.inputs)


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'fedsim-privacy\[news\]'"):
        lee_news(LeeNewsConfig())
