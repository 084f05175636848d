"""Methods are found by name."""

from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(FedsimError, match="Did you mean 'dropout-inversion'"):
        registry.get("attack", "dropout-inversoin")


@pytest.mark.parametrize(
    ("kind", "alias", "name"),
    [
        ("attack", "dia", "dropout-inversion"),
        ("attack", "spear++", "sparse-dictionary"),
        ("attack", "ig", "inverting-gradients"),
        ("defense", "signsgd", "sign"),
    ],
)
def test_the_name_of_a_paper_finds_the_method(kind: registry.Kind, alias: str, name: str) -> None:
    assert registry.get(kind, alias) is registry.get(kind, name)
    assert registry.find(alias) == registry.find(name)
    assert alias not in registry.methods(kind)


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\ndef tiny(spec, width):\n    return nn.Linear(width, spec.classes)\nbroken = 1 \n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    method = registry.get("model", "my_models:tiny")
    assert method.config.model_validate({"width": 5}).model_dump() == {"width": 5}
    with pytest.raises(FedsimError, match=r"model 'my_models:tiny' failed: TypeError: .*'colour'"):
        method.make(method.config.model_validate({"colour": 1}), None)
    with pytest.raises(FedsimError, match="has no 'tinny'. Did you mean 'tiny'"):
        registry.get("model", "my_models:tinny")
    with pytest.raises(FedsimError, match="cannot import 'no_such_module'"):
        registry.get("model", "no_such_module:tiny")
