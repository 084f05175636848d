"""Check that everything is installed that scenarios need."""

from __future__ import annotations

from collections.abc import Iterable

from fedsim.core import registry
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.scenario.data import load_dataset
from fedsim.scenario.tables import Scenario


def check_installed(scenarios: Iterable[Scenario]) -> None:
    """Say in one error what is not installed of all that scenarios need: data sets, and models that an extra brings.

    Other mistakes are left to whoever builds a world, and so are functions of the user's own, which may do anything.

    Raises:
        FedsimError: something is not installed.
    """
    needed = {(scenario.data.model_dump_json(), scenario.model.model_dump_json()): scenario for scenario in scenarios}
    missing = dict.fromkeys(str(error) for scenario in needed.values() if (error := _missing(scenario)) is not None)
    if missing:
        raise FedsimError("\n".join(missing))


def _missing(scenario: Scenario) -> MissingExtra | None:
    """Return what the data of a scenario lack, or its model, which cannot be tried without data.

    A function of the user's own runs in the run alone, where its failures and its time are the run's.
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
    except Exception:  # whoever runs the scenario says what it is
        return None
    return None
