"""A package is traced to the extra that brings it."""

import pytest

from fedsim.audit import extras


def test_of_several_extras_the_one_with_the_packages_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.6",
        'transformers>=4.50; extra == "llm"',
        "transformers>=4.50; extra == 'transformers'",
        'gensim>=4.4; python_version < "3.14" and extra == "news"',
        'ruff>=0.9; extra == "dev"',
    ]
    monkeypatch.setattr(extras, "requires", lambda _name: lines)
    assert [extras.extra_of(name) for name in ("transformers", "gensim", "torch", "ruff", "nothing")] == [
        "transformers", "news", "", "", "",
    ]  # fmt: skip


def test_where_fedsim_is_not_installed_no_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise extras.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", missing)
    assert extras.extra_of("transformers") == ""
