"""`fedsim.sweep` is a module that is called, and has its old names for one version more."""

import sys

import pytest

import fedsim
from fedsim import _moved


def test_the_module_sweep_is_called_and_has_its_old_names() -> None:
    with pytest.warns(DeprecationWarning, match=r"fedsim.sweep.load is now fedsim.experiment.sweep.load"):
        from fedsim.sweep import load
    from fedsim.experiment.sweep.plan import plan_runs
    from fedsim.experiment.sweep.results import load as new

    assert load is new
    with pytest.warns(DeprecationWarning, match=r"fedsim.sweep.planned is now fedsim.experiment.sweep.plan_runs"):
        from fedsim.sweep import planned
    assert planned is plan_runs
    assert callable(fedsim.sweep)
    assert fedsim.sweep is sys.modules["fedsim.sweep"]
    assert set(_moved.ATTRIBUTES) == {"fedsim.experiment", "fedsim.sweep"}
