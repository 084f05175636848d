"""On a Flower that an engine does not run on, the user is told which one to install."""

import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fedsim.core.errors import FedsimError
from fedsim.federation import engines


def test_a_missing_part_of_flower_is_a_matter_of_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fedsim.federation.engines.local", raising=False)
    monkeypatch.delattr(engines, "local", raising=False)
    monkeypatch.setitem(sys.modules, "flwr.supercore.task_identity", None)
    with (
        pytest.raises(FedsimError, match=r"does not run on flwr 1\..* lacks flwr.*pip install 'flwr"),
        engines._explain_flower("local"),
    ):
        from fedsim.federation.engines import local  # noqa: F401


def test_another_missing_module_is_not_flowers_fault() -> None:
    with pytest.raises(ImportError, match="ray"), engines._explain_flower("ray"):
        raise ImportError("no ray", name="ray")


@pytest.mark.slow
def test_the_oldest_flower_that_is_allowed_passes_what_the_newest_passes(tmp_path: Path) -> None:
    allowed = next(Requirement(own) for own in requires("fedsim-privacy") or [] if own.startswith("flwr"))
    oldest = next(own.version for own in allowed.specifier if own.operator == ">=")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, f"flwr=={oldest}.0"], check=True, timeout=300)
    told = "import flwr; print(flwr.__version__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", told], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(f"{oldest}.")

    here = Path(__file__).parent
    files = [here.parent / "test_mods.py", here.parent / "test_apps.py", here / "test_local.py"]
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    command = [*pytest_, *map(str, files)]
    ran = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert " passed" in ran.stdout
