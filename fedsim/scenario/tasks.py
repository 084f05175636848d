"""Training task of a scenario: its own, or the default of its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, ScenarioError, did_you_mean
from fedsim.core.hooks import IMAGES, Task
from fedsim.core.metric import USUAL
from fedsim.core.types import Batch, Dataset, Reconstruction, Truth, Update
from fedsim.scenario.tables import Scenario
from fedsim.tasks.core.fitting import usual_task


def task_of(scenario: Scenario, data: Dataset) -> Task[Any]:
    """Return the clients' training task.

    Raises:
        FedsimError: the data set names an unknown task.
    """
    if scenario.task is not None:
        return scenario.task.make("task").fit_to_data(data)
    try:
        return Choice(name=data.task or usual_task(data), settings={}).make("task").fit_to_data(data)
    except FedsimError as error:
        raise FedsimError(f"data '{scenario.data.name}' names its task: {error}") from error


def check_task(scenario: Scenario, data: Dataset, task: Task[Any]) -> None:
    """Check that the task fits the data.

    Raises:
        ScenarioError: it does not; the message gives the reason.
    """
    reason = task.refuses(data)
    if reason is not None:
        raise ScenarioError(f"task '{task.name}' does not fit data '{scenario.data.name}': {reason}.")


def check_model(scenario: Scenario, task: Task[Any], model: nn.Module) -> None:
    """Check that the task supports the clients' model.

    Raises:
        ScenarioError: it does not; the message gives the reason.
    """
    reason = task.refuses_model(model)
    if reason is not None:
        raise ScenarioError(f"task '{task.name}' does not fit model '{scenario.model.name}': {reason}.")


def check_outputs(scenario: Scenario, task: Task[Any], data: Dataset, model: nn.Module) -> None:
    """Check the output shape of an image model against the task; several outputs per example are allowed.

    Raises:
        ScenarioError: the shape does not fit.
    """
    example = next(data.train.split(2))
    expected = task.output_shape(example.labels, data.spec)
    if task.does_not_suit(IMAGES) or expected is None:
        return
    with seeding.isolate_randomness(0), torch.no_grad():
        shape = tuple(trial(task, data, model)(example.inputs).shape)
    if len(shape) > len(expected) + 1 or (shape[0], shape[-1]) != (expected[0], expected[-1]):
        raise ScenarioError(
            f"task '{task.name}' does not fit model '{scenario.model.name}', which returns shape {shape} for "
            f"{len(example)} examples, expected {expected}. Name the task that the model is for under task.name: "
            "`fedsim list tasks` shows all."
        )


def check_scoring(scenario: Scenario, data: Dataset, task: Task[Any]) -> None:
    """Check that the task's examples have the scoring metric, by scoring an example as its own guess.

    Raises:
        ScenarioError: they do not; the message lists their metrics.
    """
    wanted = scenario.scoring.metric
    if wanted == USUAL:
        return
    example = data.train.select(torch.tensor([0]))
    guess = Reconstruction.of(example.inputs, example.labels, objective=0.0, stop_reason="is the truth")
    truth = Truth((example,), ((),), Update("gradient", {}, {}, 1, 0.0), (example,))
    values = list(task.score(truth, example, guess, data).items[0].values)
    if wanted not in values:
        deciding = [name for name in values if registry.every_metric()[name].decides]
        way = f"{', '.join(deciding)} can decide" if deciding else "leave the key out"
        raise ScenarioError(
            f"scoring.metric: task '{task.name}' has no '{wanted}'.{did_you_mean(wanted, deciding)} Its examples have "
            f"{', '.join(values)}; {way}."
        )


def trial(task: Task[Any], data: Dataset, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a function that runs a model on any inputs, with the given inputs of the first training example."""

    def run(inputs: Tensor) -> Tensor:
        count, train = len(inputs), data.train
        labels = train.labels.new_zeros(count, *train.labels.shape[1:])
        given = {name: rows[:1].expand(count, *rows.shape[1:]) for name, rows in train.extra_inputs.items()}
        batch = Batch(inputs, labels, given)
        draws = task.named_draws(batch, torch.Generator().manual_seed(0)) if count else {}
        return task.answer(model, batch, draws)[0]

    return run
