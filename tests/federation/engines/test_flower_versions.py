"""On a Flower that an engine does not run on, the user is told which one to install."""

import sys

import pytest

from fedsim.core.errors import FedsimError
from fedsim.federation import engines


def test_a_missing_part_of_flower_is_a_matter_of_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fedsim.federation.engines.local", raising=False)
    monkeypatch.delitem(sys.modules, "fedsim.core.foreign.flower.in_process", raising=False)
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
