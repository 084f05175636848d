from __future__ import annotations

import pytest

from fedsim.core import registry


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
