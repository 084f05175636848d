import importlib.util
from pathlib import Path

import pytest


def beside(name):
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def records():
    """The module of synthetic runs beside this file."""
    return beside("records")


@pytest.fixture(scope="session")
def sweeps():
    """The module of synthetic sweeps beside this file."""
    return beside("sweeps")


@pytest.fixture(scope="session")
def page_of():
    """What a browser would make of a page."""
    return beside("page").Page
