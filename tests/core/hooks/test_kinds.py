"""Every hook has one base class that somebody runs, and those that no training runs say who does."""

from typing import get_args

from fedsim.core.hooks import LossTerm, Objective
from fedsim.core.hooks.components import Hook
from fedsim.core.hooks.kinds import KINDS_OF_COMPONENTS, RUN_AFTERWARDS
from fedsim.scenario import Scenario


def test_hooks_and_base_classes_are_the_same_and_only_the_loss_has_two() -> None:
    hooks = [kind.hook for kind in KINDS_OF_COMPONENTS]
    assert set(hooks) == set(get_args(Hook))
    assert len(hooks) == len(set(hooks)) + 1
    assert {kind for kind in KINDS_OF_COMPONENTS if kind.hook == "loss"} == {LossTerm, Objective}


def test_who_runs_what_no_training_runs_is_there_to_be_called() -> None:
    import fedsim.generation

    for name in RUN_AFTERWARDS.values():
        if name.startswith("the table "):
            assert name.removeprefix("the table ").strip("[]") in Scenario.model_fields
            continue
        assert name.startswith("fedsim.generation.")
        assert callable(getattr(fedsim.generation, name.rpartition(".")[2]))
