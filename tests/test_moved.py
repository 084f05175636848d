"""Old names of modules."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim import _moved, experiment
from fedsim.experiment import runner

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("old", "new"), _moved.MODULES.items())
def test_an_old_module_is_the_new_one_and_says_so(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {new}\\. Change the import"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert module.__name__ == new
    assert module.__spec__ is not None
    assert module.__spec__.name == new


def test_what_lies_below_an_old_package_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fedsim.engines", "fedsim.engines.local"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.warns(DeprecationWarning, match=r"is now fedsim\.federation\.engines(\.local)?\."):
        local = importlib.import_module("fedsim.engines.local")
    assert local is importlib.import_module("fedsim.federation.engines.local")


@pytest.mark.parametrize("name", _moved.ATTRIBUTES["fedsim.experiment"])
def test_an_old_function_is_the_new_one_and_says_so(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"fedsim.experiment.{name} is now fedsim.experiment.runner.{name}"):
        function = getattr(experiment, name)
    assert function is inspect.getattr_static(runner, name)


def test_a_name_that_never_was_is_no_module_and_no_attribute() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fedsim.hook")
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        experiment.runs  # noqa: B018


def test_the_warning_points_at_the_line_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("\nfrom fedsim.hooks import Attack\nfrom fedsim.types import Config\n")
    done = subprocess.run(
        [sys.executable, "old.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "old.py:2: DeprecationWarning: fedsim.hooks is now fedsim.core.hooks." in done.stderr
    assert "old.py:3: DeprecationWarning: fedsim.types is now fedsim.core.types." in done.stderr
