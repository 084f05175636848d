"""Files of other packages are found without importing these."""

import sys

import pytest

from fedsim.core.shipped import news_install, shipped


def test_a_file_that_no_package_ships_is_none() -> None:
    assert shipped("no_such_package", "a.csv") is None
    assert shipped("torch", "no_such_file.csv") is None


def test_where_gensim_has_no_wheel_that_of_another_python_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 9))
    assert news_install() == "pip install --no-deps gensim==4.4.0"
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert "--python-version 3.13 --target" in news_install()
