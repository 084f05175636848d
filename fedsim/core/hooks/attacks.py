"""Base classes of attacks on updates and of membership inference."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from fedsim.core.best_step import BestStep, search_until_deadline
from fedsim.core.devices import CPU, DeviceScope, find_device
from fedsim.core.errors import FedsimError, NotApplicable, did_you_mean
from fedsim.core.grants import Grants
from fedsim.core.hooks.guarding import guard
from fedsim.core.settings import DeviceName
from fedsim.core.time_budget import DeadlineReached, time_limit
from fedsim.core.types import (
    Applicability,
    InputSpec,
    Knowledge,
    LabelKind,
    Observation,
    OnStep,
    Reconstruction,
    View,
)
from fedsim.core.types.configured import ANY_LABELS, CLASSES, ConfigT, ConfiguredMethod, Tables
from fedsim.core.types.effects import UnreliableTensors

Effort = Literal["algebra", "search", "second-order", "descent", "reference"]


class CostEstimate(NamedTuple):
    """Expected cost and success of an attack on an observation.

    Attributes:
        seconds: expected time on a single core, order of magnitude. It must not depend on a clock, so that the order of
            attacks is the same on any machine.
        chance: probability that the guess explains the update exactly.
        reason: source of both numbers, in a line.
    """

    seconds: float
    chance: float
    reason: str

    @property
    def price(self) -> float:
        """Expected seconds per exact answer; of several attacks, the one with the lowest price runs first."""
        return self.seconds / self.chance if self.chance > 0.0 else math.inf


class Attack(ConfiguredMethod[ConfigT]):
    """Maps an observation to a reconstruction of the client's data. Subclasses implement `search`.

    Attributes:
        needs: knowledge that the threat model must grant.
        views: supported inputs: updates of single clients, or also the mean of a round's updates.
        effort: algebra takes milliseconds, search seconds, second-order a few steps of as many gradients as there are
            unknowns, descent thousands of gradients. `auto` and audits try attacks of these efforts, but not reference
            attacks (the default).
        crafts_model: whether it overrides `craft`, which requires a malicious server.
        inverts_augmentation: whether it estimates a known change of the batch together with the data, so its guess is
            the batch before the change.
        uses_earlier_rounds: whether it uses `Observation.earlier_observations`, which is empty for other attacks.
        accepts_initial_guess: whether it overrides `search_from`: it can start from the guess of another attack.
        infers_labels: label kinds that it infers or does not need; others must be granted.
        example: minimal scenario tables that it fits, if `fedsim.scenario.example.SMALL` (one digit and an MLP) does
            not suffice: contract tests run it, and `fedsim show` prints it. It must fit batches of one and of two
            examples, unless it sets `batch_size`; settings of the attack are in `attacks`, without its name.
    """

    effort: ClassVar[Effort] = "reference"
    needs: ClassVar[frozenset[Knowledge]] = frozenset()
    views: ClassVar[frozenset[View]] = frozenset({"single-update"})
    crafts_model: ClassVar[bool] = False
    inverts_augmentation: ClassVar[bool] = False
    uses_earlier_rounds: ClassVar[bool] = False
    accepts_initial_guess: ClassVar[bool] = False
    infers_labels: ClassVar[frozenset[LabelKind]] = CLASSES
    example: ClassVar[Tables] = {}

    @classmethod
    def missing_grants(cls, grants: Grants) -> str | None:
        """Return an error text about missing knowledge, view or server; None if the grants suffice."""
        if missing := sorted(cls.needs - grants.knows):
            return (
                f"needs {', '.join(missing)}, which the threat model does not grant. "
                f"Add also_knows = {missing} to this attack, or to threat.knows."
            )
        if grants.view not in cls.views:
            return (
                f"works on {', '.join(sorted(cls.views))}, but threat.view = '{grants.view}': "
                "the server sees a single sum per round, which mixes the examples of all "
                "participants. Use an attack that separates examples, or remove this attack."
            )
        if cls.crafts_model and not grants.may_craft:
            return (
                "changes the model that clients receive, which an honest server does not. Set threat.server = "
                "'malicious', or use an attack that only watches."
            )
        return None

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model that a malicious server sends; it may be the same object, changed, or a wrapper.

        Args:
            model: the clients' model with its initial weights, in training mode.
            spec: public description of the inputs.
            public: the server's own examples, normalised, shape (N, *spec.shape): the test set; empty if the test set
                is the training set.
            generator: random source of the attacker; the same in all processes of a run.

        Raises:
            NotApplicable: the model does not support the attack.
        """
        return model

    def not_applicable(self, observation: Observation) -> str | None:
        """Return why this attack does not fit the observation, or None if it fits."""
        return None

    @abstractmethod
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the best guess; call `on_step` once per iteration.

        All randomness must come from `generator`, including dropout: forward passes run inside a context of
        `fedsim.core.nets.masks`. The search must not accumulate gradients in `.grad` of the observed model.
        """

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return the best settings for a budget of gradient computations; empty if the attack needs few anyway."""
        return {}

    def outlook(self, observation: Observation) -> CostEstimate:
        """Return expected cost and success, which order attacks of the same effort.

        Every attack overrides it, except reference attacks. It is called before `not_applicable`, so it must be fast
        and suit any observation.
        """
        raise NotImplementedError(f"an attack of effort '{self.effort}' must state its outlook")

    def same_search(self, observation: Observation) -> str | None:
        """Return the name of another attack that runs the same search on this observation, or None.

        `auto` tries only the other attack.
        """
        return None

    def search_from(
        self, observation: Observation, guess: Reconstruction, generator: torch.Generator, on_step: OnStep
    ) -> Reconstruction:
        """Return the best guess reached from another attack's guess (warm start).

        Args:
            observation: an observation that the attack fits.
            guess: guess of as many examples as the observation has, or of fewer.
            generator: as in `search`.
            on_step: as in `search`.

        Raises:
            NotApplicable: the attack cannot continue from this guess.
        """
        raise NotApplicable("it does not go on from guesses of other attacks")

    def max_victims(self, observation: Observation) -> int:
        """Return the best batch size for searching similar observations together."""
        return 1

    def search_batch(
        self, observations: Sequence[Observation], generators: Sequence[torch.Generator], on_steps: Sequence[OnStep]
    ) -> list[Reconstruction]:
        """Return the best guess for each observation. Override together with `max_victims` if batching saves time."""
        return [self.search(*search) for search in zip(observations, generators, on_steps, strict=True)]

    @final
    def __call__(
        self,
        observation: Observation,
        generator: torch.Generator,
        on_step: OnStep = lambda _step: None,
        seconds: float | None = None,
    ) -> Reconstruction:
        """Check the observation, apply knowledge of known defenses, then search. The observed model is restored.

        Args:
            observation: observation of an update.
            generator: random source of the attack.
            on_step: called once per iteration.
            seconds: limit in processor seconds, after which the best guess so far is returned. None: no limit.

        Raises:
            NotApplicable: the attack does not fit; with the reason.
            FedsimError: tensors of the update are missing, extra, mis-shaped, not finite or all zero; or the search
                drew from torch's global generator.
        """
        (guess,) = self.together([observation], [generator], [on_step], seconds)
        return guess

    @final
    def search_in_time(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search until the nearest deadline, on a checked observation without its unreliable tensors."""
        return search_until_deadline(partial(self.search, observation, generator), observation, on_step)

    @final
    def continue_in_time(
        self, observation: Observation, guess: Reconstruction, generator: torch.Generator, on_step: OnStep
    ) -> Reconstruction:
        """Continue from another attack's guess until the nearest deadline.

        Raises:
            NotApplicable: the attack cannot continue from this guess.
        """
        return search_until_deadline(partial(self.search_from, observation, guess, generator), observation, on_step)

    @final
    def together(
        self,
        observations: Sequence[Observation],
        generators: Sequence[torch.Generator],
        on_steps: Sequence[OnStep],
        seconds: float | None = None,
    ) -> list[Reconstruction]:
        """Check all observations, then search on all of them, with `seconds` processor seconds for each.

        Raises:
            NotApplicable: the attack does not fit; with the reason.
            FedsimError: as for a single observation.
        """
        with DeviceScope(self._device(observations[0]) if observations else CPU) as there:
            checked = [self._check(there.to_device(observation)) for observation in observations]
            with guard(checked) as draws, time_limit(None if seconds is None else seconds * len(checked)):
                best = [BestStep(on_step) for on_step in on_steps]
                watched = [draws.wrap_callback(there.outside(search)) for search in best]
                try:
                    return there.to_cpu(self.search_batch(checked, generators, watched))
                except DeadlineReached:
                    return [search.guess(observation) for search, observation in zip(best, observations, strict=True)]

    def _device(self, observation: Observation) -> torch.device:
        """Return the observation's device; if it is the CPU, the attack's setting `device`."""
        device_name: DeviceName = getattr(self.config, "device", "cpu")
        return observation.device if observation.device.type != "cpu" else find_device(device_name)

    def _check(self, observation: Observation) -> Observation:
        check_update(observation)
        observation = without_unreliable_tensors(observation)
        verdict = self.fits(observation)
        if not verdict.holds:
            raise NotApplicable(verdict.reason)
        return observation

    @final
    def applicable(self, observation: Observation) -> Applicability:
        """Check the observation, and return whether the attack fits it and the threat model, else with the reason.

        Raises:
            FedsimError: tensors of the update are missing, extra, mis-shaped, not finite or all zero.
        """
        check_update(observation)
        return self.fits(without_unreliable_tensors(observation))

    @final
    def fits(self, observation: Observation) -> Applicability:
        """Return whether the attack fits a checked observation without its unreliable tensors, else with the reason."""
        if self.crafts_model and observation.threat.server != "malicious":
            return Applicability(False, "needs a malicious server, which changes the clients' model")
        missing = sorted(self.needs - set(observation.threat.knows))
        if missing:
            return Applicability(False, f"needs the threat model to grant {', '.join(missing)}")
        unsuited = observation.task.refuses_method(self) or self._lacks_labels(observation)
        if unsuited is not None:
            return Applicability(False, unsuited)
        if observation.threat.view not in self.views:
            views = ", ".join(sorted(self.views))
            return Applicability(False, f"works on {views}, but the server sees {observation.threat.view}")
        reason = self.not_applicable(observation)
        return Applicability(reason is None, reason or "")

    def _lacks_labels(self, observation: Observation) -> str | None:
        """Return an error text if the attack needs labels that it can neither infer nor was granted."""
        if observation.labels is not None or observation.task.label_kind in self.infers_labels:
            return None
        return (
            f"infers classes alone, and the labels are {observation.task.labels_in_words}: it needs them, which the "
            "threat model does not grant. Add 'labels' to threat.knows"
        )


class LabelFreeAttack(Attack[ConfigT]):
    """Base class of attacks that recover examples without using labels."""

    label_kinds: ClassVar[frozenset[LabelKind]] = ANY_LABELS
    infers_labels: ClassVar[frozenset[LabelKind]] = ANY_LABELS


class BatchSeparationAttack(LabelFreeAttack[ConfigT]):
    """Base class of attacks that separate the examples of a batch. A sum over clients counts as one large batch."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})


def check_update(observation: Observation) -> None:
    """Check the update against the model before expensive work.

    Raises:
        FedsimError: tensors are missing, extra, mis-shaped, not finite or all zero; or a label is invalid.
    """
    expected = {n: p.shape for n, p in observation.model.named_parameters() if p.requires_grad}
    tensors = observation.update.tensors
    absent = [name for name in expected if name not in tensors and name not in observation.hidden_parameters]
    if absent:
        raise FedsimError(f"the update lacks {len(absent)} tensors of the model, first '{absent[0]}'.")
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise FedsimError(
            f"the update holds {len(extra)} tensors that the model does not train, first '{extra[0]}'."
            f"{did_you_mean(extra[0], expected)}"
        )
    is_zero = True
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise FedsimError(f"'{name}' has shape {tuple(tensor.shape)}, expected {tuple(expected[name])}.")
        least, greatest = map(float, tensor.aminmax())
        if not (math.isfinite(least) and math.isfinite(greatest)):
            raise FedsimError(f"'{name}' of the update holds values that are not finite.")
        is_zero = is_zero and least == greatest == 0.0
    if is_zero:
        raise FedsimError("every tensor of the update is zero, so no gradient can be matched.")
    _check_labels(observation)


def _check_labels(observation: Observation) -> None:
    labels = observation.labels
    if labels is None:
        return
    expected = observation.examples or observation.batch_size
    if expected is not None and len(labels) != expected:
        raise FedsimError(f"{len(labels)} labels were returned, expected a label per example: {expected}.")
    reason = observation.task.refuses_labels(labels, observation.spec)
    if reason is not None:
        raise FedsimError(f"{reason}.")


def without_unreliable_tensors(observation: Observation) -> Observation:
    """Return the observation as passed to all attacks; the same object if no known defense requires a change.

    Tensors that a defense makes unreliable are set aside and count as hidden, unless no tensor would remain.
    """
    tensors = observation.update.tensors
    named = {name for effect in observation.effects(UnreliableTensors) for name in effect.names} & tensors.keys()
    if not named or named == tensors.keys():
        return observation
    return replace(
        observation,
        update=replace(observation.update, tensors={n: t for n, t in tensors.items() if n not in named}),
        hidden_parameters=observation.hidden_parameters | named,
        unreliable_tensors={name: tensors[name] for name in named},
    )
