"""From a scenario to a record, once or many times."""

from typing import Any

from fedsim import _moved


def __getattr__(name: str) -> Any:
    """Return what was here when this was a single file."""
    return _moved.attribute("fedsim.experiment", name)
