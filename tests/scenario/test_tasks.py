"""Which task a scenario has, what is said where it does not fit, and models that are tried on any inputs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core import registry
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.tasks import check_task, task_of, trial

Build = Callable[..., Scenario]


def test_the_scenario_names_the_task_or_else_the_data_do(scenario: Build) -> None:
    data = worlds.build(scenario()).data.dataset
    assert task_of(scenario(), data).name == "classification"
    assert task_of(scenario(task={"name": "next-token"}), data).name == "next-token"
    assert task_of(scenario(), replace(data, task="tagging")).name == "tagging"
    with pytest.raises(FedsimError, match=r"data 'digits' names its task: .*Did you mean 'tagging'"):
        task_of(scenario(), replace(data, task="taging"))


def test_a_task_that_does_not_fit_is_told_with_the_reason(scenario: Build) -> None:
    built = scenario()
    data = worlds.build(built).data.dataset
    check_task(built, data, task_of(built, data))
    text = scenario(task={"name": "next-token"})
    with pytest.raises(ScenarioError, match="task 'next-token' does not fit data 'digits': it reads tokens"):
        check_task(text, data, task_of(text, data))


def test_a_model_is_tried_on_as_many_inputs_as_are_given(scenario: Build) -> None:
    built = scenario()
    data = worlds.build(built).data.dataset
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    run = trial(task_of(built, data), data, model)
    for count in (0, 1, 3):
        inputs = torch.ones(count, *data.spec.shape)
        assert torch.equal(run(inputs), model(inputs))


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"data": {"name": "breast-cancer"}, "model": {"name": "mlp"}}, "leave the key out"),
        ({}, "Did you mean 'ssim'"),
    ],
    ids=["rows", "images"],
)
def test_a_deciding_metric_that_the_task_does_not_have_is_refused_before_training(
    scenario: Build, tables: dict[str, Any], told: str
) -> None:
    with registry.temporary():
        registry.metric("ssimm", title="s", summary="s", over="item", worst=0.0, decides=True)(len)
        world = worlds.build(scenario(**tables, scoring={"metric": "ssimm"}))
        with pytest.raises(ScenarioError, match="scoring.metric: task '.*' has no 'ssimm'") as caught:
            world.check()
    assert told in str(caught.value)
