"""Build the attacker's observation. It contains only what the threat model grants."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core.errors import ScenarioError, did_you_mean
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import Defense, PublicFederation
from fedsim.core.types import (
    GRANTS,
    Batch,
    Draws,
    DropoutSite,
    InputSpec,
    Knowledge,
    MethodDescription,
    Observation,
    ThreatModel,
    Update,
)
from fedsim.core.types.effects import PrivateNoise
from fedsim.scenario import Scenario
from fedsim.scenario.world import World
from fedsim.threat.victim import Victim

_HIGHEST_RATE = 0.95


def observe(
    victim: Victim,
    knows: Collection[Knowledge],
    earlier: Sequence[Victim] = (),
) -> Observation:
    """Return the observation of an attack.

    Args:
        victim: the update with its ground truth, of which only granted parts are copied.
        knows: all granted knowledge.
        earlier: the same client's updates of earlier rounds; included if granted.

    Raises:
        ScenarioError: the dropout rates are not granted, or granted with an error, but are constants in the model's
            code, so that they cannot be changed.
    """
    world, entry, truth = victim.world, victim.entry, victim.truth
    model = world.models.new()
    model.load_state_dict(dict(entry.received_weights))
    batch_size = len(truth.batches[0]) if "batch-size" in knows else None
    spec = world.data.dataset.spec
    sites = _sites(victim, knows, model)
    seen = shared_parameters(model, world.scenario.threat.visible_parameters)
    sizes = None if batch_size is None else tuple(len(batch) for batch in truth.batches)
    labels = _labels(victim.examples, len(truth.batches)) if "labels" in knows else None
    given = _extra_inputs(victim.examples, len(truth.batches)) if "extra-inputs" in knows else None
    if given:
        world.task.tell(model, given, labels)
    return Observation(
        threat=ThreatModel(
            server=world.scenario.threat.server,
            view="sum" if entry.clients else "single-update",
            knows=tuple(sorted(knows)),
        ),
        model=model,
        loss=world.stack.loss(entry.round),
        update=_visible_update(entry.update, seen, sum(sizes or ())),
        spec=spec if "input-statistics" in knows else _drop_statistics(spec),
        local_steps=len(truth.batches),
        learning_rate=world.stack.optimizer.learning_rate,
        sites=sites,
        batch_size=batch_size,
        labels=labels,
        masks=tuple(tuple(m.clone() for m in step) for step in truth.masks) if "masks" in knows else None,
        known_methods=_public(world, knows, is_sum=bool(entry.clients)),
        hidden_parameters=frozenset(entry.update.tensors.keys() - seen),
        optimizer=world.scenario.federation.optimizer.name,
        optimizer_settings=world.stack.optimizer.config.model_dump(),
        is_resumed=world.scenario.federation.keep_optimizer_state and bool(entry.earlier.get(entry.client)),
        batch_sizes=sizes,
        examples=len(victim.examples) if sizes else None,
        draws=_copy(truth.draws) if "client-randomness" in knows and not entry.clients else None,
        earlier_observations=tuple(observe(victim, knows) for victim in earlier) if "earlier-rounds" in knows else (),
        extra_inputs=given,
        device=world.device,
        task=world.task,
        label_shape=tuple(world.data.dataset.train.labels.shape[1:]),
    )


def describe(world: World, questions: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the threat model in plain sentences, for the screen, the record and the report.

    Args:
        world: the scenario's built objects.
        questions: the questions' sentences on their attackers.
    """
    return (
        *_sees(world, (world.scenario.federation.batch_size,)),
        _attack_sentence(world.scenario),
        *_knows(world),
        *_further_grants(world.scenario),
        *questions,
    )


def describe_any_round(world: World, batch_sizes: Sequence[int]) -> tuple[str, ...]:
    """Return the sentences for a server that attacks updates of several batch sizes, in any round.

    Args:
        world: the built objects of a scenario with any of these batch sizes.
        batch_sizes: all batch sizes.
    """
    return (*_sees(world, batch_sizes), *_knows(world))


def _sees(world: World, batch_sizes: Sequence[int]) -> Iterator[str]:
    """Yield sentences on the server's behaviour and on the received updates."""
    is_fedsgd = world.scenario.federation.algorithm == "fedsgd"
    sent = "one gradient" if is_fedsgd else f"the change after {_training(world)}"
    yield from _server(world)
    yield from _view(world.scenario, sent, ", ".join(map(str, batch_sizes)))
    yield from _limits(world.scenario)


def _knows(world: World) -> Iterator[str]:
    """Yield sentences on granted and on missing knowledge."""
    granted = world.scenario.threat.knows
    known = [grant.has for name, grant in GRANTS.items() if name in granted and _exists(world, name)]
    yield "It knows the model, its weights and the loss" + "".join(f", {knowledge}" for knowledge in known) + "."
    yield from _optimizer(world)
    lacking = (grant for name, grant in GRANTS.items() if name not in granted and _is_at_stake(world, name))
    yield from (f"It {grant.lacks}." for grant in lacking)


def _is_at_stake(world: World, knowledge: Knowledge) -> bool:
    """Return whether knowledge is available that an attacker could lack, e.g. components or random draws."""
    if knowledge == "components":
        return bool(world.stack.component_views)
    if knowledge == "earlier-rounds":
        return len(world.scenario.threat.rounds) > 1
    if not _exists(world, knowledge):
        return False
    return knowledge != "client-randomness" or bool(world.stack.augmentations) or world.task.draws


def _exists(world: World, knowledge: Knowledge) -> bool:
    """Return whether the data have this knowledge: tokens are not normalised, and a text's labels are the text."""
    if knowledge == "extra-inputs":
        return bool(world.data.dataset.train.extra_inputs)
    return not GRANTS[knowledge].depends_on_task or knowledge in world.task.knowable


def _server(world: World) -> Iterator[str]:
    """Yield sentences on the server's behaviour."""
    choice = world.scenario.crafting_attack
    if choice is None:
        yield "The server is honest but curious: it follows the protocol and stores all received updates."
        return
    crafted = world.models.crafted_changes
    added = sum(crafted.tensors[name].numel() for name in crafted.added_names)
    changed = sorted(crafted.tensors.keys() - crafted.added_names)
    deeds = [f"adds {_quote_names(sorted(crafted.added_names))} ({added:,} numbers) to it"] if added else []
    deeds += [f"replaces the values of {_quote_names(changed)}"] if changed else []
    yield "The server is malicious: it changes the model that every client receives. Clients train it as usual."
    yield f"For attack '{choice.report_name}' it {' and '.join(deeds)}, anew in every attacked round."
    yield "It chooses these values without any client's data, from its seed and the test set, which it owns."


def _quote_names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def shared_parameters(model: nn.Module, patterns: tuple[str, ...]) -> set[str]:
    """Return the names of the trained parameters that match a pattern: the server sees their tensors.

    Raises:
        ScenarioError: a pattern matches no parameter.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ScenarioError(
                f"threat.visible_parameters: no parameter matches '{pattern}'.{did_you_mean(pattern, names)}"
            )
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def _public(world: World, knows: Collection[Knowledge], *, is_sum: bool) -> tuple[MethodDescription, ...]:
    components = world.stack.component_views if "components" in knows else ()
    defenses = world.stack.defenses if "defenses" in knows else ()
    if is_sum:
        return (*components, *(defense.adaptive_view() for defense in defenses))
    return (*components, *(_with_deviation(defense, world.facts.federation) for defense in defenses))


def _with_deviation(defense: Defense[Any], federation: PublicFederation) -> MethodDescription:
    """Return the description of a defense; its private noise states the deviation in this federation."""
    known, deviation = defense.adaptive_view(), defense.noise_deviation(federation)
    if deviation is None:
        return known
    effects = (replace(e, deviation=deviation) if isinstance(e, PrivateNoise) else e for e in known.effects)
    return replace(known, effects=tuple(effects))


def _copy(draws: tuple[Draws, ...]) -> tuple[Draws, ...]:
    return tuple({name: tensor.clone() for name, tensor in step.items()} for step in draws)


def _labels(examples: Batch, steps: int) -> Tensor:
    """Return a copy of the labels; of several steps sorted, because their order would reveal the step of an example."""
    labels = examples.labels
    return labels.clone() if steps == 1 else torch.tensor(sorted(labels.tolist()), dtype=labels.dtype)


def _extra_inputs(examples: Batch, steps: int) -> dict[str, Tensor]:
    """Return a copy of the given inputs of the examples, in the order of `_labels`."""
    labels = examples.labels.tolist()
    order = list(range(len(examples))) if steps == 1 else sorted(range(len(examples)), key=labels.__getitem__)
    return {name: tensor[order] for name, tensor in examples.extra_inputs.items()}


def _limits(scenario: Scenario) -> Iterator[str]:
    threat = scenario.threat
    if threat.visible_parameters != ("*",):
        yield f"Of each update it sees only the parameters that match {', '.join(threat.visible_parameters)}."
    if threat.rate_error and "dropout-rates" in threat.knows:
        yield f"Its dropout rates are wrong by {threat.rate_error:+g}."


def _training(world: World) -> str:
    federation = world.scenario.federation
    if federation.local_epochs is None:
        return f"{federation.local_steps} steps"
    passes = "1 pass" if federation.local_epochs == 1 else f"{federation.local_epochs} passes"
    return f"{passes} over its examples"


def _optimizer(world: World) -> Iterator[str]:
    if world.scenario.federation.algorithm == "fedavg":
        name = world.scenario.federation.optimizer.name
        yield f"It knows the clients' optimizer, {name} with step size {world.stack.optimizer.learning_rate:g}."


def _view(scenario: Scenario, sent: str, sizes: str) -> Iterator[str]:
    """Yield sentences on the received updates and on secure aggregation."""
    secure = scenario.secure_aggregation
    if scenario.threat.view == "single-update":
        yield f"It sees single updates: {sent} of each client, on batches of {sizes}."
        return
    yield (
        f"It sees a single sum per round, the mean over about {scenario.cohort_size} clients of "
        f"{sent} of each client on batches of {sizes}, and the list of participants."
    )
    if secure is None:
        yield "The scenario assumes that it sees no single update, without a mechanism that hides them."
    elif secure.mode == "ideal":
        yield "Secure aggregation is ideal: a trusted party adds the updates and sends the server only the sum."
    else:
        yield "Secure aggregation is masked: each upload looks random, and the masks cancel in the sum."
    if secure is not None and secure.least_contributors > 1:
        yield f"For an element that fewer than {secure.least_contributors} clients changed it learns only this fact."


def _attack_sentence(scenario: Scenario) -> str:
    """Return the sentence on the attacked updates, or on the attacked unlearning request."""
    threat, unlearning = scenario.threat, scenario.unlearning
    rounds = ", ".join(map(str, threat.rounds))
    if unlearning is None:
        return (
            f"It attacks {_clients(threat.victims) if threat.view == 'single-update' else 'the sum'} in round {rounds}."
        )
    clients_text = (
        "1 client requests"
        if unlearning.clients == 1
        else f"{unlearning.clients} clients request, each in its own federation,"
    )
    examples_text = "1 of its examples" if unlearning.examples == 1 else f"{unlearning.examples} of its examples"
    seen = (
        "global models alone" if threat.view == "sum" else f"single updates, of round {rounds} where it compares them"
    )
    return (
        f"After the last round {clients_text} the unlearning of {examples_text}, by method {unlearning.method.name}. "
        f"The server attacks its estimate of the forgotten update, from {seen}."
    )


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _further_grants(scenario: Scenario) -> Iterator[str]:
    for attack in scenario.attacks:
        granted: list[Knowledge] = [
            knowledge for knowledge in attack.also_knows if knowledge not in scenario.threat.knows
        ]
        if granted:
            words = ", ".join(GRANTS[knowledge].has for knowledge in granted)
            yield f"Attack '{attack.report_name}' is granted more: {words}."


def _drop_statistics(spec: InputSpec) -> InputSpec:
    channels = len(spec.mean)
    return replace(spec, mean=(0.0,) * channels, std=(1.0,) * channels)


def _misestimated_rate(rate: float, error: float) -> float:
    return min(max(rate + error, 0.0), _HIGHEST_RATE) if rate else 0.0


def _visible_update(update: Update, seen: Collection[str], examples: int) -> Update:
    """Return a copy of an update with the visible tensors and this number of examples."""
    tensors = {name: tensor.clone() for name, tensor in update.tensors.items() if name in seen}
    return replace(update, tensors=tensors, buffers=copy.deepcopy(update.buffers), examples=examples)


def _sites(victim: Victim, knows: Collection[Knowledge], model: nn.Module) -> tuple[DropoutSite, ...]:
    """Return the dropout sites with the rates that the attacker assumes, and set these rates in the model."""
    sites = victim.sites if "batch-size" in knows else victim.sites_of_one
    error = victim.world.scenario.threat.rate_error
    if "dropout-rates" not in knows:
        withheld = "be withheld from the attacker: add 'dropout-rates' to threat.knows"
        return _with_rates(model, sites, lambda _rate: 0.0, withheld)
    if not error:
        return sites
    wrong = "be misjudged by the attacker: set threat.rate_error to 0"
    return _with_rates(model, sites, partial(_misestimated_rate, error=error), wrong)


def _with_rates(
    model: nn.Module, sites: tuple[DropoutSite, ...], shown: Callable[[float], float], what_cannot: str
) -> tuple[DropoutSite, ...]:
    """Return the sites with the rates shown to the attacker, and set these rates in its copy of the model."""
    changed: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, pytorch.Dropout):
            module.p = shown(module.p)
            changed.add(name)
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = shown(module.dropout)
            changed.add(name)
    in_code = sorted({site.name for site in sites} - changed)
    if in_code:
        raise ScenarioError(
            f"the dropout rate in '{in_code[0]}' is fixed in the model's code and cannot {what_cannot}."
        )
    return tuple(replace(site, rate=shown(site.rate)) for site in sites)
