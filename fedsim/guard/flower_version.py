"""Versions of Flower on which the guard was tested: the range in fedsim's own requirements.

`make test-versions PACKAGES=flwr` runs the guard's tests on the oldest and the newest version of the range.
"""

from __future__ import annotations

from importlib.metadata import requires, version

from packaging.requirements import Requirement


def describe_untested_version() -> str | None:
    """Return a sentence that names the installed version of Flower and the tested range; None for a tested version."""
    tested = next(found for line in requires("fedsim-privacy") or () if (found := Requirement(line)).name == "flwr")
    installed = version("flwr")
    if tested.specifier.contains(installed, prereleases=False):
        return None
    return f"The guard was not tested with flwr {installed}, expected flwr{tested.specifier}."
