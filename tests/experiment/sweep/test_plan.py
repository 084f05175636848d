"""Every combination is a run of its own, and equal ones are one."""

from typing import Any

from fedsim.experiment import sweep as sweeps
from fedsim.experiment.sweep.plan import lacks_control
from tests.experiment.sweep.sweeping import GRID, scenario


def test_every_combination_is_a_run_of_its_own_and_equal_ones_are_one() -> None:
    runs = sweeps.plan_runs(scenario(grid=GRID, seeds=[1, 2, 3]), "test")
    assert len(runs) == len({run.digest for run in runs}) == 12
    assert runs[0].values == {"model.dropout": 0.0, "defense": "none", "seed": 1}
    assert runs[-1].name == "dropout 0.5, defense noise, seed 3"
    listed = scenario(runs=[{"federation.batch_size": 2}, {"model.width": 9, "model.dropout": 0.5}, {"model.width": 8}])
    assert [run.values for run in sweeps.plan_runs(listed, "test")][1] == {
        "model.width": 9,
        "model.dropout": 0.5,
        "seed": 0,
    }
    again = scenario(runs=[{"model.width": 8}, {"model.width": 8, "model.depth": 1}])
    assert len(sweeps.plan_runs(again, "test")) == 1


def test_a_sweep_without_an_undefended_setting_lacks_a_control() -> None:
    def lacks(**tables: Any) -> bool:
        return lacks_control(sweeps.plan_runs(scenario(seeds=[1], **tables), "test"))

    noise = {"name": "gradient-noise", "scale": 0.01}
    assert not lacks(grid=GRID)
    assert lacks(grid={"model.dropout": [0.25, 0.5]})
    assert not lacks(grid={"model.dropout": [0.0, 0.5]})
    assert lacks(grid={"model.dropout": [0.0, 0.5], "defense": {"noise": {"defenses": [noise]}}})
    assert lacks(runs=[{"model.width": 9}])  # the default of this model is dropout
    assert not lacks(runs=[{"attacks": []}])  # nothing is attacked
