"""Whether what a scenario names fits its data and its model; asked before the first round."""

from __future__ import annotations

from typing import Any

from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import Component, Defense
from fedsim.scenario.choices import Choice
from fedsim.scenario.data import Data
from fedsim.scenario.facts import Facts
from fedsim.scenario.model_source import ModelSource
from fedsim.scenario.stack import Stack
from fedsim.scenario.tables import Scenario


def check_objectives(stack: Stack) -> None:
    """Check that clients minimise one thing.

    Raises:
        ScenarioError: two components say what a client minimises.
    """
    if stack.objectives[1:]:
        names = " and ".join(type(objective).__name__ for objective in stack.objectives[:2])
        raise ScenarioError(f"components: {names} both say what a client minimises. Leave one out.")


def check_modality(scenario: Scenario, data: Data, stack: Stack) -> None:
    """Check that every hook works on this kind of examples; an attack's `fits` says it for attacks.

    Raises:
        ScenarioError: one does not.
    """
    modality = data.dataset.spec.modality
    hooks: list[tuple[str, Choice, Component[Any] | Defense[Any]]] = []
    hooks += [("component", *own) for own in zip(scenario.components, stack.components, strict=True)]
    hooks += [("defense", *own) for own in zip(scenario.defenses, stack.defenses_as_written, strict=True)]
    for kind, choice, hook in hooks:
        if modality not in hook.modalities:
            works = " and ".join(sorted(hook.modalities))
            raise ScenarioError(
                f"{kind} '{choice.name}' does not fit: it works on {works}, and the examples are {modality}."
            )
    if modality == "images":
        return
    if scenario.audit is not None:
        raise ScenarioError("audit: its canaries are images, and the examples are text. Leave the audit out.")
    granted = {*scenario.threat.knows, *(known for attack in scenario.attacks for known in attack.also_knows)}
    if scenario.attacks and "labels" in granted and data.dataset.spec.labels_are_text:
        raise ScenarioError(
            "threat.knows: the labels of a language model are the text itself, one token later. Leave out 'labels'."
        )


def check_labels(scenario: Scenario, data: Data, stack: Stack) -> None:
    """Check that sentences without labels have what they need, and are not used for what they cannot do.

    Raises:
        ScenarioError: no component says what a client minimises, or membership is asked for.
    """
    name = scenario.data.name
    if data.dataset.similarities is None:
        return
    if not stack.objectives:
        raise ScenarioError(
            f"components: the examples of data '{name}' have no labels, so a component must say what a client "
            "minimises. Add one, for example 'esimcse'."
        )
    if scenario.membership is not None:
        raise ScenarioError(
            f"membership: its attacks look at the loss of an example, and those of data '{name}' have no labels. "
            "Leave the membership out."
        )


def check_hooks(scenario: Scenario, stack: Stack, facts: Facts, models: ModelSource) -> None:
    """Check that every component, every defense and the aggregation rule fit the federation and the model.

    Raises:
        ScenarioError: one does not, with the reason.
    """
    for choice, component in zip(scenario.components, stack.components, strict=True):
        reason = component.refuses(facts.rules, models.holding(models.first_weights))
        if reason is not None:
            raise ScenarioError(f"component '{choice.name}' does not fit: {reason}.")
    per_example = [defense for defense in stack.defenses if defense.overrides("on_examples")]
    if per_example[1:]:
        raise ScenarioError(
            "defenses: two of them clip the gradient of every example; a step has only one. Leave one out."
        )
    for choice, defense in zip(scenario.defenses, stack.defenses_as_written, strict=True):
        reason = defense.refuses(facts.rules, models.holding(models.first_weights))
        if reason is not None:
            raise ScenarioError(f"defense '{choice.name}' does not fit: {reason}.")
    reason = stack.new_aggregator().refuses(facts.rules, models.holding(models.first_weights))
    if reason is not None:
        raise ScenarioError(f"aggregation rule '{scenario.aggregation.name}' does not fit: {reason}.")
