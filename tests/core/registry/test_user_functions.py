"""A user's own functions are found by module and name; scenarios may name those that are marked."""

from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError


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


def test_a_function_that_is_not_marked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_marks.py").write_text(
        "from fedsim.core.registry import for_scenarios\n@for_scenarios\ndef yes(): ...\ndef no(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.check_marked("my_marks:yes")
    with pytest.raises(
        FedsimError, match=r"the function 'my_marks:no' is not marked.* write @for_scenarios above it \(.*\)\.$"
    ):
        registry.check_marked("my_marks:no")
