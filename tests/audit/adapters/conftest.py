"""Fixtures of Flower apps."""

from pathlib import Path

import pytest

from tests.audit.adapters.flower_apps import Apps


@pytest.fixture
def apps(tmp_path: Path) -> Apps:
    return Apps(tmp_path)
