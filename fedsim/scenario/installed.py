"""Check that the requirements of scenarios are installed."""

from __future__ import annotations

from collections.abc import Iterable

from fedsim.core import registry
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.scenario.data import load_dataset
from fedsim.scenario.tables import Scenario


def check_installed(scenarios: Iterable[Scenario]) -> None:
    """Raise a single error for all missing data sets, and models from missing extras.

    Other errors are raised when the world is built; user functions are not called here, because they may do anything.

    Raises:
        FedsimError: a requirement is not installed.
    """
    needed = {(scenario.data.model_dump_json(), scenario.model.model_dump_json()): scenario for scenario in scenarios}
    missing = dict.fromkeys(
        str(error) for scenario in needed.values() if (error := _find_missing(scenario)) is not None
    )
    if missing:
        raise FedsimError("\n".join(missing))


def _find_missing(scenario: Scenario) -> MissingExtra | None:
    """Return the error for missing data or a missing extra of the model, which requires the data's shape.

    User functions are called in the run only, which reports their failures and durations.
    """
    model = scenario.model
    if ":" in scenario.data.name:
        return None
    comes_with_extra = ":" not in model.name and registry.get("model", model.name).extra is not None
    try:
        dataset = load_dataset(scenario.data)
        if comes_with_extra:
            model.make("model", dataset.spec)
    except MissingExtra as error:
        return error
    except Exception:  # the run reports other errors
        return None
    return None
