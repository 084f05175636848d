"""Checks of a method against the scenario that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import RUN_AFTERWARDS, Attack, ConfiguredMethod, Defense, Grants
from fedsim.core.registry import Kind, Method
from fedsim.scenario.choices import AttackChoice, crafts_model
from fedsim.scenario.clients import Federation
from fedsim.scenario.tables import Scenario

_TABLES = {
    "decoder": ", or, if clients train a language model, to the table [generation]",
    "mitigation": ", or, if clients train a language model, to an attack of the table [generation]",
    "sampler": ", or, if clients train a denoiser, to the table [generation]",
    "unmasker": ", or, if clients train a masked language model, to the table [generation]",
}


_BASES: Mapping[Kind, type[ConfiguredMethod[Any]]] = {"attack": Attack, "defense": Defense}


def find(kind: Kind, choice: Choice) -> Method:
    """Return the method of a choice. A choice without a base class selects attacks on updates and defenses of updates.

    Raises:
        FedsimError: the method is unknown, or has another base class.
    """
    return registry.get(kind, choice.name, _BASES.get(kind, object) if choice.base is object else choice.base)


def check_choice(method: Method, place: tuple[str | int, ...], choice: Choice, scenario: Scenario) -> None:
    """Check that a method is allowed at its place in the file, and that the scenario grants its requirements.

    Raises:
        FedsimError: it does not fit; the message gives the fix.
    """
    _check_hook(method, place, choice)
    _check_is_used(method, place, choice, scenario)
    configured = method.derived_from(ConfiguredMethod)
    reason = configured.missing_grants(_granted_by(scenario, choice)) if configured is not None else None
    if reason is not None:
        raise FedsimError(f"'{method.name}' {reason}")


def _granted_by(scenario: Scenario, choice: Choice) -> Grants:
    threat, extra = scenario.threat, choice.also_knows if isinstance(choice, AttackChoice) else ()
    return Grants(
        knows=frozenset({*threat.knows, *extra}),
        view=threat.view if scenario.unlearning is None else "single-update",
        may_craft=threat.server == "malicious" or "threat.server" in scenario.varied_keys,
        masks_updates=scenario.secure_aggregation is not None,
        is_attacked=bool(scenario.attacks),
    )


def _check_is_used(method: Method, place: tuple[str | int, ...], choice: Choice, scenario: Scenario) -> None:
    """Refuse a client optimizer other than the default under fedsgd; arms that vary the algorithm are checked alone."""
    is_open = not scenario.varied_keys.isdisjoint(("federation", "federation.algorithm"))
    if place != ("federation", "optimizer") or scenario.federation.algorithm != "fedsgd" or is_open:
        return
    default = registry.get("component", Federation().optimizer.name)
    if method.name != default.name or method.config.model_validate(choice.settings) != default.config():
        raise FedsimError(
            "with federation.algorithm = 'fedsgd' clients send a gradient and take no step, so their optimizer has no "
            "effect. Remove federation.optimizer, set federation.algorithm = 'fedavg', or set aggregation.optimizer, "
            "the server's."
        )


def _check_hook(method: Method, place: tuple[str | int, ...], choice: Choice) -> None:
    if place[0] == "unlearning":
        if method.hook != "unlearning":
            raise FedsimError(f"'{method.name}' is a component for hook {method.hook}, expected an unlearning.")
        return
    if choice.hooks:
        if method.hook not in choice.hooks:
            raise FedsimError(f"'{method.name}' is a component for hook {method.hook}, expected a {choice.hooks[0]}.")
        return
    is_optimizer = method.hook == "optimizer"
    if place[-1] == "optimizer" and not is_optimizer:
        raise FedsimError(f"'{method.name}' is a component for hook {method.hook}, expected an optimizer.")
    if place[0] == "components" and is_optimizer:
        raise FedsimError(f"'{method.name}' is an optimizer: set federation.optimizer instead.")
    if method.hook is not None and method.hook in RUN_AFTERWARDS:
        raise FedsimError(
            f"'{method.name}' is a {method.hook}, which runs on a trained model, not during "
            "training. Remove it, and pass it to "
            f"{RUN_AFTERWARDS[method.hook]}{_TABLES.get(method.hook, '')}."
        )


def check_crafting(scenario: Scenario, source: str) -> None:
    """Check that exactly one attack of a malicious server changes the model."""
    if scenario.threat.server != "malicious" or any(key.startswith("attacks") for key in scenario.varied_keys):
        return
    names = [choice.report_name for choice in scenario.attacks if choice.crafts_model]
    if len(names) == 1:
        return
    known = ", ".join(name for name, method in registry.methods("attack", Attack).items() if crafts_model(method))
    actual = f"{', '.join(names)} all do" if names else "none of the attacks does"
    raise ScenarioError(
        f"{source}: threat.server is 'malicious', so exactly one attack must change the model "
        f"that clients receive, but {actual}. Expected any of: {known}."
    )


def check_scoring(scenario: Scenario) -> list[str]:
    """Return the problems of the scoring metric; empty if it can decide about success."""
    name = scenario.scoring.metric
    try:
        declared = registry.get("metric", name).declares
    except FedsimError as error:
        return [f"scoring.metric: {error}"]
    if declared is not None and declared.decides:
        return []
    deciding = [name for name, metric in registry.every_metric().items() if metric.decides]
    return [f"scoring.metric: '{name}' cannot decide; {', '.join(deciding)} can."]
