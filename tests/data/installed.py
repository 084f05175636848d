"""What a test needs of optional packages."""

import importlib.util
import os

import pytest


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{package} is not installed")
