"""Run the tests of private names on the oldest and the newest allowed version of each package: `make test-versions`.

Each version is installed by pip in a temporary folder that precedes the environment's packages. torch is a download of
some gigabytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOREIGN = "core/foreign"
TESTS = {
    "flwr": (
        f"{FOREIGN}/flower", "federation/test_mods.py", "federation/test_apps.py", "federation/engines/test_local.py",
        "guard",
        "hostile/test_guarded_nodes.py::"
        "test_an_app_without_mods_sends_private_arrays_alone_and_stops_where_the_budget_ends",
    ),
    "torch": (
        f"{FOREIGN}/test_pytorch.py", "core/test_devices.py", "core/hooks/test_guarding.py",
        "core/nets/kv_cache/test_stack.py", "attacks/core/matching/test_optimizers.py",
    ),
    "opacus": (
        f"{FOREIGN}/test_opacus.py", "privacy/test_per_example.py", "privacy/test_privacy_loss.py",
        "privacy/test_secure_optimizer.py",
    ),
    "transformers": (f"{FOREIGN}/test_transformers.py", "models/test_llava.py"),
}  # fmt: skip
"""Tests of each package, below `tests/`."""
COMPANIONS = {"torch==2.6.0": ("torchvision==0.21.0",)}
"""Packages whose version follows that of the installed package."""


def allowed(package: str) -> Requirement:
    """Return the requirement of fedsim on a package."""
    return next(found for line in requires("fedsim-privacy") or [] if (found := Requirement(line)).name == package)


def oldest(package: str) -> str:
    """Return the requirement of the oldest allowed version."""
    version = next(bound.version for bound in allowed(package).specifier if bound.operator == ">=")
    return f"{package}=={version}" + ".0" * (2 - version.count("."))


def newest(package: str) -> str:
    """Return the requirement of the newest allowed version."""
    return f"{package}{allowed(package).specifier}"


def install(package: str, requirement: str, folder: Path) -> str:
    """Install a version of a package in a folder, and return the version.

    Raises:
        RuntimeError: Python imports another version than the installed one.
    """
    options = () if package in ("torch", "transformers") else ("--no-deps",)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *options)
    subprocess.run([*pip, requirement, *COMPANIONS.get(requirement, ())], check=True)
    code = f"from importlib.metadata import version; print(version('{package}'))"
    version = subprocess.run(
        [sys.executable, "-c", code], env=environment(folder), check=True, capture_output=True, text=True
    ).stdout.strip()
    if not any(folder.glob(f"{package}-{version}.dist-info")):
        raise RuntimeError(f"{requirement} was installed, but Python imports {package} {version}.")
    return version


def environment(folder: Path) -> dict[str, str]:
    """Return the environment variables of a process that imports the packages of a folder first."""
    return {**os.environ, "PYTHONPATH": str(folder)}


def failed(packages: list[str]) -> Iterator[str]:
    """Yield the versions whose tests fail, and print each result."""
    for package in packages:
        for requirement in (oldest(package), newest(package)):
            with tempfile.TemporaryDirectory() as folder:
                version = install(package, requirement, Path(folder))
                chosen = [str(ROOT / "tests" / name) for name in TESTS[package]]
                command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *chosen]
                ran = subprocess.run(
                    command, check=False, env=environment(Path(folder)), capture_output=True, text=True
                )
            print(f"{package} {version}: {ran.stdout.strip().splitlines()[-1]}", flush=True)
            if ran.returncode:
                print(ran.stdout[-6000:], ran.stderr[-2000:])
                yield f"{package} {version}"


if __name__ == "__main__":
    sys.exit(", ".join(failed(sys.argv[1:] or list(TESTS))) or 0)
