"""A policy in plain sentences: permissions, refusals, and the cost of a run."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.guard.policy import EVALUATE, TRAIN, GuardPolicy, MetricTable, category_of
from fedsim.guard.status import rounds_within_budget
from fedsim.privacy.accounting import Spent, epsilon


def permissions(policy: GuardPolicy) -> Iterator[str]:
    """Yield a sentence for each thing that a policy lets happen."""
    apps, rules = policy.apps, policy.messages
    if apps.sha256 == "any":
        yield "Any app runs."
    else:
        yield f"Apps with these SHA-256 run: {', '.join(apps.sha256)}."
    yield _isolation(policy)
    if any(category_of(pattern) == TRAIN for pattern in rules.types):
        yield (
            f"A training message is answered with the arrays that the server sent, changed by {_defenses(policy)}, "
            f"and num-examples = 1{_constants(policy)}. A run gets at most {rules.rounds} such answers."
        )
        yield f"Integer arrays leave as the server sent them. {_running_statistics(policy)}"
    if any(category_of(pattern) == EVALUATE for pattern in rules.types):
        yield from _evaluations(policy)
    yield (
        "After a failure of the app the reply is noise, as if the app had changed nothing."
        if rules.on_app_failure == "noise"
        else "After a failure of the app the reply is an error without a reason: the server learns of the failure."
    )


def refusals(policy: GuardPolicy) -> Iterator[str]:
    """Yield a sentence for each thing that a policy refuses; no reason depends on the site's data."""
    yield f"Every message of another type than {', '.join(policy.messages.types)} is refused."
    if policy.apps.sha256 != "any":
        yield "Every other app is refused."
    yield "Arrays of half precision and of complex numbers are refused."
    if policy.server_check:
        yield "Received weights that look crafted are refused before an app sees them."
    yield (
        f"Every message is refused that would raise the epsilon of '{policy.subject}' above {policy.budget.epsilon:g} "
        f"at delta {policy.budget.delta:g}, over all runs together."
    )
    yield "Nothing else of an app's reply leaves: no other metric, array, name, record or error text."


def cost_of_run(policy: GuardPolicy, rounds: int) -> str:
    """Return the cost of a run with this many rounds, and the number of rounds that a new ledger allows."""
    counted = min(rounds, policy.messages.rounds)
    limit = "" if counted == rounds else f", of which this site answers {counted},"
    spent = epsilon(policy.cost(counted), policy.budget.delta).value
    outcome = "within" if spent <= policy.budget.epsilon else "ABOVE"
    return (
        f"A run of {_count(rounds, 'round')}{limit} costs epsilon {spent:.4g} at delta {policy.budget.delta:g}, "
        f"{outcome} the budget of {policy.budget.epsilon:g}. "
        f"A new ledger allows {_count(rounds_within_budget(policy, []), 'round')} in all."
    )


def _isolation(policy: GuardPolicy) -> str:
    apps = policy.apps
    if apps.isolation == "none":
        return "WARNING: apps run with all permissions of this user: they can read your files and send them anywhere."
    places = [f"read {', '.join(map(str, apps.readable))}"] if apps.readable else []
    places += [f"write to {', '.join(map(str, apps.writable))}"] if apps.writable else []
    own = " and ".join(places) or "read none of your data"
    return f"Apps run without network and other processes, for at most {apps.seconds:g} seconds. They may {own}."


def _defenses(policy: GuardPolicy) -> str:
    named = (
        f"{choice.name} ({', '.join(f'{key} = {value}' for key, value in choice.settings.items())})"
        if choice.settings
        else choice.name
        for choice in policy.defenses
    )
    return ", then ".join(named)


def _running_statistics(policy: GuardPolicy) -> str:
    private = [mod for mod in policy.mods() if mod.mechanism is not None]
    if any(mod.running_statistics == "received" for mod in private):
        return "So do running means and variances of batch normalisation."
    return "Running means and variances of batch normalisation are clipped and noised with the weights."


def _evaluations(policy: GuardPolicy) -> Iterator[str]:
    if policy.messages.evaluate == "decline-silently":
        yield (
            "An evaluate message is answered without running the app, at no cost: the reply holds "
            f"num-examples = 1{_constants(policy)}."
        )
        return
    names = ", ".join(policy.metrics)
    yield (
        f"An evaluate message runs the app, at most {policy.messages.rounds} times in a run. The reply holds "
        f"num-examples = 1{_constants(policy)} and noised metrics: {names}."
    )
    for name, metric in policy.metrics.items():
        yield _noised_metric(name, metric, policy.budget.delta)


def _noised_metric(name: str, metric: MetricTable, delta: float) -> str:
    deviation = metric.noise_multiplier * metric.width
    alone = epsilon([Spent(metric.noise_multiplier, 1.0, 1)], delta).value
    often = (
        "Every evaluation sends it."
        if metric.every == 1
        else f"Every {metric.every} evaluations of a run send it once, and otherwise {metric.middle:g} in its place."
    )
    return (
        f"Metric {name} is clipped to the range from {metric.low:g} to {metric.high:g}, and gets noise of standard "
        f"deviation {deviation:g}. {often} A single figure costs epsilon {alone:.4g}."
    )


def _constants(policy: GuardPolicy) -> str:
    return "".join(f", {name} = {value:g}" for name, value in policy.messages.metrics.items())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
