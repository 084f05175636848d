import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def federation():
    """The module with rounds of the protocol, beside this file."""
    spec = importlib.util.spec_from_file_location(
        "secure_aggregation_federation", Path(__file__).with_name("federation.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
