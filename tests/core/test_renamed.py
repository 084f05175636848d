from __future__ import annotations

import importlib

import pytest

from fedsim.core import registry


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("fedsim.core.hooks", "Here", "HookContext"),
        ("fedsim.core.masks", "injected_masks", "inject_masks"),
        ("fedsim.core.masks", "recorded_masks", "record_masks"),
        ("fedsim.core.seeding", "contained", "isolate_randomness"),
        ("fedsim.core.errors", "told", "describe_exception"),
    ],
)
def test_an_old_name_works_and_says_the_new_one(module: str, old: str, new: str) -> None:
    own = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now {new}"):
        assert getattr(own, old) is getattr(own, new)


def test_a_name_that_never_was_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'fedsim.core.hooks' has no attribute 'There'"):
        importlib.import_module("fedsim.core.hooks").There  # noqa: B018


@pytest.mark.parametrize(
    ("attack", "old", "new"),
    [
        ("inverting-gradients", "trials", "restarts"),
        ("lamp", "searches", "restarts"),
        ("april", "starts", "restarts"),
        ("sme", "trials", "restarts"),
        *((name, "iterations", "max_iterations") for name in ("auto", "dlg", "lamp", "tag", "gauss-newton", "sme")),
    ],
)
def test_an_old_setting_works_and_says_the_new_one(attack: str, old: str, new: str) -> None:
    config = registry.get("attack", attack).config
    with pytest.warns(FutureWarning, match=f"the setting '{old}' is now called '{new}'"):
        assert config.model_validate({old: 3}) == config.model_validate({new: 3})
