"""On a Flower that an engine does not run on, the user is told which one to install."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fedsim.core.errors import FedsimError
from fedsim.federation import engines

ROOT = Path(__file__).parents[3]


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


def allowed() -> Requirement:
    return next(Requirement(each) for each in requires("fedsim-privacy") or [] if each.startswith("flwr"))


def oldest() -> str:
    """Return the requirement of the first version of the oldest minor release that is allowed."""
    return f"flwr=={next(each.version for each in allowed().specifier if each.operator == '>=')}.0"


def newest() -> str:
    """Return the requirement of the newest version that is allowed, and out."""
    return f"flwr{allowed().specifier}"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # four nodes, and an app for each message
@pytest.mark.parametrize("wanted", [oldest, newest])
def test_engines_mods_and_guards_run_on_the_oldest_and_the_newest_flower(
    wanted: Callable[[], str], tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, wanted()], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    asks = "import flwr; print(flwr.__version__)"
    answer = subprocess.run([sys.executable, "-c", asks], env=environment, check=True, capture_output=True, text=True)
    version = answer.stdout.strip()
    assert allowed().specifier.contains(version)
    assert (tmp_path / f"flwr-{version}.dist-info").exists()  # it is the one that was installed for this test

    federation, guard = ROOT / "tests" / "federation", ROOT / "tests" / "guard"
    quick = [federation / "test_mods.py", federation / "test_apps.py", federation / "engines" / "test_local.py", guard]
    run_tests(environment, *map(str, quick), "-m", "not slow")
    run_tests(environment, str(ROOT / "tests" / "hostile" / "test_guarded_nodes.py"), "-k", "mods")


def run_tests(environment: dict[str, str], *chosen: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *chosen]
    ran = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert " passed" in ran.stdout
