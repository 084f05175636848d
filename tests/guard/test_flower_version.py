"""The guard tells versions of Flower on which it was tested from others."""

import pytest

from fedsim.guard import flower_version
from fedsim.guard.flower_version import describe_untested_version
from tests.versions import allowed, oldest


def use(monkeypatch: pytest.MonkeyPatch, installed: str, *requirements: str) -> None:
    lines = requirements or ("numpy>=2", "flwr>=1.40,<1.43", "flwr[simulation]>=1.30; extra == 'flower-sim'")
    monkeypatch.setattr(flower_version, "version", {"flwr": installed}.__getitem__)
    monkeypatch.setattr(flower_version, "requires", {"fedsim-privacy": list(lines)}.__getitem__)


@pytest.mark.parametrize("installed", ["1.40.0", "1.41.3", "1.42.99"])
def test_versions_of_the_range_are_tested(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    use(monkeypatch, installed)
    assert describe_untested_version() is None


@pytest.mark.parametrize("installed", ["1.39.9", "1.43.0", "1.43.0.dev20261201", "1.42.1rc1", "2.0"])
def test_older_newer_and_unreleased_versions_are_not(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    use(monkeypatch, installed)
    sentence = describe_untested_version()
    assert sentence == f"The guard was not tested with flwr {installed}, expected flwr<1.43,>=1.40."


def test_the_range_is_that_of_the_requirements_whose_ends_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_untested_version() is None
    monkeypatch.setattr(flower_version, "version", lambda _name: oldest("flwr").partition("==")[2])
    assert describe_untested_version() is None
    monkeypatch.setattr(flower_version, "version", lambda _name: "1.2")
    assert str(allowed("flwr").specifier) in (describe_untested_version() or "")
