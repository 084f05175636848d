"""Unlearning requests after the last round: the server's estimates become the victims of attacks.

Each client requests unlearning in its own federation, where no other client does. A component of hook unlearning
answers the request with the clients' own training code; the second training has its own seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import Part, ServerEstimate, Unlearning
from fedsim.core.types import GRANTS, Knowledge, Tensors, Truth, Update, View, WireEntry
from fedsim.federation.client import local_training, looks_first
from fedsim.federation.journal import ServerLog
from fedsim.federation.stepping import train_rounds
from fedsim.scenario import UnlearningSettings
from fedsim.scenario.world import World
from fedsim.threat.victim import Victim


def check(world: World) -> None:
    """Check before the first round that a second training is possible and that updates can be estimated from it.

    Raises:
        ScenarioError: a check failed; the message gives the reason and the fix.
    """
    _check_shares(world)
    if world.facts.keeps_state:
        raise ScenarioError(
            "unlearning: updates depend on earlier rounds, and the second training starts "
            "without that state. Remove federation.keep_optimizer_state, and components and "
            "defenses with a memory."
        )
    if looks_first(world):
        raise ScenarioError("unlearning: every update must count. Leave out the defense that may refuse to train.")
    if _way(world).is_one_step:
        return
    _check_draws(world)
    if world.scenario.threat.view == "sum":
        _check_means(world)


def _check_shares(world: World) -> None:
    settings = _settings(world)
    least = settings.examples + (settings.examples if settings.scored_on == "retained" else 1)
    for client in range(settings.clients):
        owned = len(world.data.shares[client])
        if owned < least:
            raise ScenarioError(
                f"unlearning.examples is {settings.examples}, but client {client} owns {owned} examples, and some must "
                f"stay. Expected at least {least}: forget fewer, or set fewer unlearning.clients."
            )


def _check_draws(world: World) -> None:
    scenario, why = world.scenario, "an update estimated from two trainings belongs to no single step"
    granted: set[Knowledge] = {
        *scenario.threat.knows,
        *(name for attack in scenario.attacks for name in attack.also_knows),
    }
    unknown = sorted(name for name in granted if GRANTS[name].is_drawn)
    if unknown:
        raise ScenarioError(f"threat.knows: {why}, so '{unknown[0]}' does not exist and cannot be granted. Remove it.")
    if world.task.draws:
        raise ScenarioError(f"unlearning: the task draws in every step, and {why}. Use another task.")


def _check_means(world: World) -> None:
    rule, optimizer = world.scenario.aggregation, world.scenario.aggregation.optimizer
    is_weighted = rule.name == "mean" and rule.settings["weighted"]
    if not is_weighted or optimizer.name != "sgd" or optimizer.settings["momentum"]:
        raise ScenarioError(
            f"unlearning.method = '{_settings(world).method.name}' with threat.view = 'sum' treats the "
            "change of the global model as a mean over all examples. Expected aggregation.name "
            "= 'mean', weighted, with the optimizer 'sgd' without momentum; or threat.view = "
            "'single-update'."
        )


def unlearning_victims(world: World, journal: ServerLog) -> list[Victim]:
    """Return a victim per server estimate, by round and client: the estimated update with its ground truth."""
    way, victims = _way(world), list[Victim]()
    for client in range(_settings(world).clients):
        request = _Request(world, journal, client)
        for revealed in way.forget(request):
            entry = WireEntry(revealed.round, client, revealed.received_weights, revealed.update)
            is_step = revealed.truth is not None and _settings(world).scored_on == "forgotten"
            victims.append(Victim(world, entry, request.truth(revealed), is_step))
    return sorted(victims, key=lambda victim: (victim.entry.round, victim.entry.client))


def _settings(world: World) -> UnlearningSettings:
    settings = world.scenario.unlearning
    assert settings is not None, "called where somebody asks"
    return settings


def _way(world: World) -> Unlearning[Any]:
    return _settings(world).method.make("component")


@dataclass(frozen=True)
class _Request:
    """A client's unlearning request, as documented in `fedsim.core.hooks.Request`."""

    world: World
    journal: ServerLog
    client: int

    @property
    def view(self) -> View:
        return self.world.scenario.threat.view

    @property
    def rounds(self) -> int:
        return self.world.scenario.federation.rounds

    @property
    def watched_rounds(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.world.scenario.threat.rounds)))

    @property
    def rate(self) -> float:
        return self.world.stack.server_optimizer.learning_rate

    @property
    def forgotten(self) -> int:
        return _settings(self.world).examples

    def examples(self, part: Part) -> int:
        data = self._world(part).data
        return sum(len(chosen) for client in range(len(data.shares)) for chosen in data.numbers_of(1, client))

    def weights(self, round_: int) -> Tensors:
        if round_ == 1:
            return self.world.models.first_weights
        if round_ > self.rounds:
            return self.journal.weights
        return next(entry.received_weights for entry in self.journal.entries if entry.round == round_)

    def retrained_weights(self, round_: int) -> Tensors:
        return self._retrained_rounds[round_ - 1]

    def update(self, round_: int, weights: Tensors, part: Part) -> tuple[Update, Truth]:
        return local_training(self._world(part), weights, round_, self.client)

    def truth(self, revealed: ServerEstimate) -> Truth:
        """Return the ground truth for scoring, with masks and draws if the estimate is one local step."""
        known = revealed.truth
        if known is not None and _settings(self.world).scored_on == "forgotten":
            return known
        judged = self.world.data.dataset.train.select(self._scored_examples)
        if known is not None:
            return replace(known, batches=(judged,), original_batches=(judged,))
        nothing_drops = ((),) if not self.world.models.sites else ()
        return Truth((judged,), nothing_drops, revealed.update, (judged,))

    @cached_property
    def _order(self) -> Tensor:
        """Indices of the client's examples, shuffled: first the examples to forget, then the remaining ones."""
        share = self.world.data.shares[self.client]
        generator = seeding.generator(self.world.scenario.seed, "forgetting", self.client)
        return share[torch.randperm(len(share), generator=generator)]

    @property
    def _scored_examples(self) -> Tensor:
        settings = _settings(self.world)
        return (
            self._order[settings.examples :][: settings.examples]
            if settings.scored_on == "retained"
            else self._forgotten
        )

    @property
    def _forgotten(self) -> Tensor:
        return self._order[: self.forgotten]

    def _world(self, part: Part) -> World:
        return {"all": self.world, "rest": self._retained_world, "forgotten": self._alone}[part]

    @cached_property
    def _retained_world(self) -> World:
        share = self.world.data.shares[self.client]
        return self._world_of(share[~torch.isin(share, self._forgotten)])

    @cached_property
    def _alone(self) -> World:
        return self._world_of(self._forgotten, batch_size=self.forgotten)

    def _world_of(self, chosen: Tensor, batch_size: int | None = None) -> World:
        """Return the world in which the client owns other examples, with a new seed for all random draws."""
        shares = tuple(
            chosen if number == self.client else share for number, share in enumerate(self.world.data.shares)
        )
        seed = seeding.derive(self.world.scenario.seed, "forgetting", self.client)
        return self.world.again(shares, seed, batch_size)

    @cached_property
    def _retrained_rounds(self) -> list[Tensors]:
        """The weights before every needed round of the second training, and after the last round."""
        last = self.rounds if self.view == "sum" else max(self.watched_rounds) - 1
        return list(train_rounds(self._retained_world, last))
