"""Checks of a scenario's methods against its data and model, before the first round."""

from __future__ import annotations

from typing import Any

from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import Aggregator, Component, Defense, Task
from fedsim.scenario.federation_facts import FederationFacts
from fedsim.scenario.model_source import ModelSource
from fedsim.scenario.stack import HookSet
from fedsim.scenario.tables import Scenario

_Hook = Component[Any] | Defense[Any] | Aggregator[Any]


def check_objectives(stack: HookSet) -> None:
    """Check that clients have a single training objective.

    Raises:
        ScenarioError: two components define the training objective.
    """
    if stack.objectives[1:]:
        names = " and ".join(objective.name for objective in stack.objectives[:2])
        raise ScenarioError(f"components: {names} both define the client's loss. Remove either.")


def check_modality(scenario: Scenario, task: Task[Any], stack: HookSet) -> None:
    """Check that every component and defense supports the task's examples; attacks are checked by their `fits`.

    Raises:
        ScenarioError: a hook does not; or labels are granted although they are the inputs.
    """
    for hook in (*stack.components, *stack.defenses_as_written):
        reason = task.refuses_method(hook)
        if reason is not None:
            raise ScenarioError(f"{_kind(hook)} '{hook.name}' does not fit: it {reason}.")
    granted = {*scenario.threat.knows, *(known for attack in scenario.attacks for known in attack.also_knows)}
    if scenario.attacks and "labels" in granted and task.labels_are_inputs:
        raise ScenarioError(
            "threat.knows: the labels of a language model are the text itself, one token later. Leave out 'labels'."
        )


def check_labels(scenario: Scenario, task: Task[Any], stack: HookSet) -> None:
    """Check that a task without labels has a training objective.

    Raises:
        ScenarioError: no component defines the objective.
    """
    name = scenario.data.name
    if task.has_labels:
        return
    if not stack.objectives:
        raise ScenarioError(
            f"components: the examples of data '{name}' have no labels, so a component must "
            "define the client's loss. Add it, for example 'esimcse'."
        )


def check_hooks(stack: HookSet, facts: FederationFacts, models: ModelSource) -> None:
    """Check that every component, every defense and the aggregation rule fit the federation and the model.

    Raises:
        ScenarioError: a hook does not fit; the message gives the reason.
    """
    for component in stack.components:
        _check_hook(component, facts, models)
    per_example = [defense for defense in stack.defenses if defense.overrides("on_examples")]
    if per_example[1:]:
        raise ScenarioError(
            "defenses: two defenses clip per-example gradients, and a step allows only one. Remove either."
        )
    for defense in stack.defenses_as_written:
        _check_hook(defense, facts, models)
    _check_hook(stack.rule, facts, models)
    _check_concealment(facts)


def _check_hook(hook: _Hook, facts: FederationFacts, models: ModelSource) -> None:
    reason = hook.refuses(facts.federation, models.load_weights(models.first_weights))
    if reason is not None:
        raise ScenarioError(f"{_kind(hook)} '{hook.name}' does not fit: {reason}.")


def _check_concealment(facts: FederationFacts) -> None:
    """Check that no mechanism is combined with withheld sums: its guarantee covers only sums of all elements."""
    secure = facts.scenario.secure_aggregation
    if secure is None or secure.least_contributors == 1:
        return
    if facts.client_mechanisms or facts.server_mechanism is not None:
        raise ScenarioError(
            f"secure_aggregation.least_contributors is {secure.least_contributors}, and a "
            "private mechanism is in use. Its guarantee holds for sums of all elements; with "
            "least_contributors a single client decides whether the sum of the others is "
            "revealed. Set least_contributors = 1, or remove the mechanism."
        )


def _kind(hook: _Hook) -> str:
    if isinstance(hook, Aggregator):
        return "aggregation rule"
    return "defense" if isinstance(hook, Defense) else "component"
