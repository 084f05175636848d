"""Whether a method fits the scenario that names it."""

from __future__ import annotations

from fedsim.core import registry
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import RUN_AFTERWARDS
from fedsim.core.registry import Method
from fedsim.core.types import Knowledge, View
from fedsim.scenario.choices import AttackChoice, Choice
from fedsim.scenario.tables import Scenario


def check_choice(method: Method, place: tuple[str | int, ...], choice: Choice, scenario: Scenario) -> None:
    """Check that a method may stand at its place in the file, and that the scenario grants what it needs.

    Raises:
        FedsimError: it does not fit; the message says what to change.
    """
    _check_hook(method, place)
    _check_knowledge(method, choice, scenario)
    _check_view(method, choice, scenario)
    _check_target(method, scenario)
    _check_server(choice, scenario)
    _check_rule(method, scenario)


def _check_hook(method: Method, place: tuple[str | int, ...]) -> None:
    is_optimizer = method.hook == "optimizer"
    if place[-1] == "optimizer" and not is_optimizer:
        raise FedsimError(f"'{method.name}' is a component for hook {method.hook}, expected an optimizer.")
    if place[0] == "components" and is_optimizer:
        raise FedsimError(f"'{method.name}' is an optimizer: set federation.optimizer instead.")
    if method.hook is not None and method.hook in RUN_AFTERWARDS:
        raise FedsimError(
            f"'{method.name}' is a {method.hook}, which takes a trained model, and no training runs it. Leave it out, "
            f"and give it to {RUN_AFTERWARDS[method.hook]}."
        )


def _check_knowledge(method: Method, choice: Choice, scenario: Scenario) -> None:
    if not isinstance(choice, AttackChoice):
        return
    needs: frozenset[Knowledge] = getattr(method.make, "needs", frozenset())
    missing = sorted(needs - {*scenario.threat.knows, *choice.also_knows})
    if missing:
        raise FedsimError(
            f"'{choice.name}' needs {', '.join(missing)}, which the threat model does not grant. "
            f"Add also_knows = {missing} to this attack, or to threat.knows."
        )


def _check_view(method: Method, choice: Choice, scenario: Scenario) -> None:
    if not isinstance(choice, AttackChoice):
        return
    views: frozenset[View] = getattr(method.make, "views", frozenset())
    if scenario.threat.sees not in views:
        raise FedsimError(
            f"'{choice.name}' works on {', '.join(sorted(views))}, but threat.sees = '{scenario.threat.sees}': the "
            "server sees one sum a round, in which the examples of all participants are mixed. Use an attack that "
            "separates them, or leave it out."
        )


def _check_target(method: Method, scenario: Scenario) -> None:
    if method.kind != "membership" or getattr(method.make, "target", "model") == "model":
        return
    if scenario.threat.sees != "single-update":
        raise FedsimError(
            f"'{method.name}' judges the updates of one client, but threat.sees = '{scenario.threat.sees}'. Set "
            "threat.sees = 'single-update', or use an attack on the model."
        )


def _check_server(choice: Choice, scenario: Scenario) -> None:
    is_honest = scenario.threat.server == "honest-but-curious" and "threat.server" not in scenario.varied
    if is_honest and isinstance(choice, AttackChoice) and choice.crafts:
        raise FedsimError(
            f"'{choice.name}' changes the model that clients receive, which an honest server does not. Set "
            "threat.server = 'malicious', or use an attack that only watches."
        )


def check_crafting(scenario: Scenario, source: str) -> None:
    """Check that a malicious server changes the model in exactly one way."""
    if scenario.threat.server != "malicious" or any(key.startswith("attacks") for key in scenario.varied):
        return
    names = [choice.label or choice.name for choice in scenario.attacks if choice.crafts]
    if len(names) == 1:
        return
    known = ", ".join(name for name, method in registry.methods("attack").items() if getattr(method.make, "crafts", 0))
    found = f"{', '.join(names)} all do" if names else "none of the attacks does"
    raise ScenarioError(
        f"{source}: threat.server is 'malicious', so exactly one attack must change the model that clients receive, "
        f"but {found}. Expected one of: {known}."
    )


def _check_rule(method: Method, scenario: Scenario) -> None:
    if method.kind != "aggregator" or not getattr(method.make, "needs_single_updates", True):
        return
    if scenario.secure_aggregation is not None:
        raise FedsimError(
            f"'{method.name}' looks at the updates of single clients, and behind secure aggregation the server has "
            "none: it sees their sum. Given one mean in place of all updates, the rule would return it, and nobody "
            "would notice that it does nothing any more. Use 'mean', or leave out secure_aggregation."
        )
    if scenario.threat.sees == "sum" and scenario.attacks:
        raise FedsimError(
            f"'{method.name}' gives no mean of the updates, and attacks with threat.sees = 'sum' take what the server "
            "sees for the mean gradient of all participants' examples. Use 'mean', or leave the attacks out."
        )


def check_scoring(scenario: Scenario) -> list[str]:
    """Return what is wrong with the metric that decides about success; nothing where it does so."""
    own = scenario.scoring.metric
    try:
        registry.get("metric", own)
    except FedsimError as error:
        return [f"scoring.metric: {error}"]
    deciding = [name for name, metric in registry.every_metric().items() if metric.decides]
    return [] if own in deciding else [f"scoring.metric: '{own}' cannot decide; {', '.join(deciding)} can."]
