"""What an attack on an update, or on membership, implements."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from fedsim.core.deadline import BestStep, DeadlineReached, best_in_time, limited
from fedsim.core.devices import CPU, DeviceName, Stay, find_device
from fedsim.core.errors import FedsimError, NotApplicable, nearest
from fedsim.core.hooks.guarding import guard
from fedsim.core.informed import informed
from fedsim.core.types import (
    Applicability,
    InputSpec,
    Knowledge,
    LabelKind,
    MembershipObservation,
    Observation,
    OnStep,
    Reconstruction,
    ShadowPlan,
    Target,
    View,
)
from fedsim.core.types.configured import ANY_LABELS, CLASSES, ConfigT, Configured, Tables
from fedsim.core.types.grants import Grants

Effort = Literal["algebra", "search", "second-order", "descent", "reference"]
_SECONDS: dict[Effort, float] = {
    "algebra": 0.01,
    "search": 1.0,
    "second-order": 10.0,
    "descent": 100.0,
    "reference": 100.0,
}
_CHANCE = 0.5  # of an attack that says nothing about it


class Outlook(NamedTuple):
    """What an attack expects of an observation.

    Attributes:
        seconds: on one core, in order of magnitude.
        chance: that its guess explains the update exactly.
    """

    seconds: float
    chance: float

    @property
    def price(self) -> float:
        """Seconds for each exact answer: of several attacks, tried until one is exact, the cheapest goes first."""
        return self.seconds / self.chance if self.chance > 0.0 else math.inf


class Attack(Configured[ConfigT]):
    """Turns an observation into a guess of the client's data. Authors write `search`.

    Attributes:
        needs: what the threat model must grant.
        views: what the attack works on: updates of single clients, or also the mean of a round's updates.
        effort: algebra takes milliseconds, search seconds, second-order a few steps of as many gradients as there are
            unknowns, descent thousands of gradients. `auto` and audits try what names one of these. They do not try
            reference attacks, nor those that say nothing.
        crafts: whether it overrides `craft`, which takes a malicious server.
        undoes: whether it searches a known change of the batch along with the data, so that its guess is what was
            there before the change, and not what the model saw.
        over_rounds: whether it looks at `Observation.earlier`; other attacks find nothing there.
        continues: whether it overrides `continue_from`: it can go on from the guess of another attack.
        infers: which kinds of labels it works out itself, or never looks at; others must be granted.
        example: tables of a scenario that it fits, as small as can be, where `fedsim.scenario.example.SMALL` (one digit
            and an MLP) does not do: contract tests run it, and `fedsim show` prints it. It fits batches of one and of
            two examples, unless `batch_size` is set; settings of the attack stand in `attacks`, without its name.
    """

    effort: ClassVar[Effort] = "reference"
    needs: ClassVar[frozenset[Knowledge]] = frozenset()
    views: ClassVar[frozenset[View]] = frozenset({"single-update"})
    crafts: ClassVar[bool] = False
    undoes: ClassVar[bool] = False
    over_rounds: ClassVar[bool] = False
    continues: ClassVar[bool] = False
    infers: ClassVar[frozenset[LabelKind]] = CLASSES
    example: ClassVar[Tables] = {}

    @classmethod
    def needs_more(cls, grants: Grants) -> str | None:
        """Name the knowledge, the view or the server that it needs."""
        if missing := sorted(cls.needs - grants.knows):
            return (
                f"needs {', '.join(missing)}, which the threat model does not grant. "
                f"Add also_knows = {missing} to this attack, or to threat.knows."
            )
        if grants.sees not in cls.views:
            return (
                f"works on {', '.join(sorted(cls.views))}, but threat.sees = '{grants.sees}': the server sees one sum "
                "a round, in which the examples of all participants are mixed. Use an attack that separates them, or "
                "leave it out."
            )
        if cls.crafts and not grants.may_craft:
            return (
                "changes the model that clients receive, which an honest server does not. Set threat.server = "
                "'malicious', or use an attack that only watches."
            )
        return None

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model that a malicious server hands out; it may be the same object, changed, or a wrapper.

        Args:
            model: the clients' model with its first weights, in training mode.
            spec: what is public about the inputs.
            public: examples of the server's own, normalised, shape (N, *spec.shape): the test set, or none at all
                where the test set is the training set.
            generator: the attacker's randomness; the same in every process of a run.

        Raises:
            NotApplicable: the model has no place for the attack.
        """
        return model

    def not_applicable(self, observation: Observation) -> str | None:
        """Return the reason why this attack does not fit the observation, or None when it does."""
        return None

    @abstractmethod
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the best guess; call `on_step` once an iteration.

        All randomness comes from `generator`, that of dropout too: a forward pass runs inside one of the contexts of
        `fedsim.core.masks`. Nothing is accumulated in the `.grad` of the observed model.
        """

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return the settings that make the most of about so many gradients; none where it computes few anyway."""
        return {}

    def outlook(self, observation: Observation) -> Outlook:
        """Return what to expect, which puts attacks of the same effort in order.

        It is asked before `not_applicable`, so it looks at sizes and rates alone, and takes no time.
        """
        return Outlook(_SECONDS[self.effort], _CHANCE)

    def continue_from(
        self, observation: Observation, guess: Reconstruction, generator: torch.Generator, on_step: OnStep
    ) -> Reconstruction:
        """Return the best guess that can be reached from another attack's guess.

        Args:
            observation: one that the attack fits.
            guess: of as many examples as the observation has, or of fewer.
            generator: as for `search`.
            on_step: as for `search`.

        Raises:
            NotApplicable: nothing can be made of this guess; with the reason.
        """
        raise NotApplicable("it does not go on from guesses of other attacks")

    def at_once(self, observation: Observation) -> int:
        """Return how many observations like this one are best searched together."""
        return 1

    def search_together(
        self, observations: Sequence[Observation], generators: Sequence[torch.Generator], on_steps: Sequence[OnStep]
    ) -> list[Reconstruction]:
        """Return the best guess for each observation. Override it, and `at_once`, where common work saves time."""
        return [self.search(*one) for one in zip(observations, generators, on_steps, strict=True)]

    @final
    def __call__(
        self,
        observation: Observation,
        generator: torch.Generator,
        on_step: OnStep = lambda _step: None,
        seconds: float | None = None,
    ) -> Reconstruction:
        """Check the observation, take what known defenses call for, then search. The observed model stays as it was.

        Args:
            observation: of an update.
            generator: the attack's randomness.
            on_step: called once an iteration.
            seconds: of the processor; then the best guess so far is the result. None: as many as it takes.

        Raises:
            NotApplicable: with the reason.
            FedsimError: tensors of the update are missing, extra, mis-shaped, not finite or all zero; or the search
                drew from torch's global generator.
        """
        (guess,) = self.together([observation], [generator], [on_step], seconds)
        return guess

    @final
    def search_in_time(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search until the nearest deadline, on an observation that was checked and `informed` already."""
        return best_in_time(partial(self.search, observation, generator), observation, on_step)

    @final
    def continue_in_time(
        self, observation: Observation, guess: Reconstruction, generator: torch.Generator, on_step: OnStep
    ) -> Reconstruction:
        """Go on from another attack's guess until the nearest deadline.

        Raises:
            NotApplicable: nothing can be made of this guess; with the reason.
        """
        return best_in_time(partial(self.continue_from, observation, guess, generator), observation, on_step)

    @final
    def together(
        self,
        observations: Sequence[Observation],
        generators: Sequence[torch.Generator],
        on_steps: Sequence[OnStep],
        seconds: float | None = None,
    ) -> list[Reconstruction]:
        """Check every observation, then search on all of them, with so many processor seconds for each.

        Raises:
            NotApplicable: with the reason.
            FedsimError: as for a single observation.
        """
        with Stay(self._device(observations[0]) if observations else CPU) as there:
            checked = [self._check(there.take(observation)) for observation in observations]
            with guard(checked) as draws, limited(None if seconds is None else seconds * len(checked)):
                best = [BestStep(on_step) for on_step in on_steps]
                watched = [draws.watched(there.outside(one)) for one in best]
                try:
                    return there.bring(self.search_together(checked, generators, watched))
                except DeadlineReached:
                    return [one.guess(observation) for one, observation in zip(best, observations, strict=True)]

    def _device(self, observation: Observation) -> torch.device:
        """Return the observation's device; where that is the CPU, an attack's own setting `device` counts."""
        device_name: DeviceName = getattr(self.config, "device", "cpu")
        return observation.device if observation.device.type != "cpu" else find_device(device_name)

    def _check(self, observation: Observation) -> Observation:
        check_update(observation)
        observation = informed(observation)
        verdict = self.fits(observation)
        if not verdict.holds:
            raise NotApplicable(verdict.reason)
        return observation

    @final
    def applicable(self, observation: Observation) -> Applicability:
        """Check the observation, then say whether the attack fits it and the threat model, and if not, why.

        Raises:
            FedsimError: tensors of the update are missing, extra, mis-shaped, not finite or all zero.
        """
        check_update(observation)
        return self.fits(informed(observation))

    @final
    def fits(self, observation: Observation) -> Applicability:
        """Say whether the attack fits an observation that was checked and `informed` already, and if not, why."""
        if self.crafts and observation.threat.server != "malicious":
            return Applicability(False, "needs a malicious server, which changes the clients' model")
        missing = sorted(self.needs - set(observation.threat.knows))
        if missing:
            return Applicability(False, f"needs the threat model to grant {', '.join(missing)}")
        unsuited = observation.task.refuses_method(self) or self._lacks_labels(observation)
        if unsuited is not None:
            return Applicability(False, unsuited)
        if observation.threat.sees not in self.views:
            views = ", ".join(sorted(self.views))
            return Applicability(False, f"works on {views}, but the server sees {observation.threat.sees}")
        reason = self.not_applicable(observation)
        return Applicability(reason is None, reason or "")

    def _lacks_labels(self, observation: Observation) -> str | None:
        """Say whether it needs labels that it can neither infer nor was granted."""
        if observation.labels is not None or observation.task.label_kind in self.infers:
            return None
        return (
            f"infers classes alone, and the labels are {observation.task.labels_in_words}: it needs them, which the "
            "threat model does not grant. Add 'labels' to threat.knows"
        )


class LabelFreeAttack(Attack[ConfigT]):
    """An attack that reads examples off an update whatever their labels are."""

    label_kinds: ClassVar[frozenset[LabelKind]] = ANY_LABELS
    infers: ClassVar[frozenset[LabelKind]] = ANY_LABELS


class SeparatingAttack(LabelFreeAttack[ConfigT]):
    """An attack that takes a batch apart. It also attacks the sum over clients, whose batches are one to it."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})


class MembershipAttack(Configured[ConfigT]):
    """Says of every candidate how likely it was trained on. Authors write `score`.

    Attributes:
        target: what it judges. On the model, members are training examples of all clients; on updates, those of the
            client that sent them.
    """

    target: ClassVar[Target] = "model"

    @classmethod
    def needs_more(cls, grants: Grants) -> str | None:
        """Name the view that it needs."""
        if cls.target == "model" or grants.sees == "single-update":
            return None
        return (
            f"judges the updates of one client, but threat.sees = '{grants.sees}'. Set threat.sees = 'single-update', "
            "or use an attack on the model."
        )

    def plan(self) -> ShadowPlan | None:
        """Return the shadow models it wants to find in the observation, or None when it wants none."""
        return None

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Return the reason why this attack does not fit the observation, or None when it does."""
        return None

    @abstractmethod
    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return one number a candidate, shape (N,), higher for those that are rather members."""

    @final
    def __call__(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Check the observation, then score.

        Raises:
            NotApplicable: with the reason.
            FedsimError: the scores have another shape, or one of them is not a number.
        """
        reason = observation.task.refuses_method(self) or self.not_applicable(observation)
        if reason is not None:
            raise NotApplicable(reason)
        return self.checked(self.score(observation, generator), observation)

    @staticmethod
    def checked(scores: Tensor, observation: MembershipObservation) -> Tensor:
        """Return scores, with their shape and their values checked.

        Raises:
            FedsimError: they have another shape, or one of them is not a number.
        """
        if scores.shape != (len(observation.candidates),):
            raise FedsimError(
                f"the scores have shape {tuple(scores.shape)}, expected one a candidate: "
                f"({len(observation.candidates)},)."
            )
        if bool(scores.isnan().any()):
            raise FedsimError("a score is not a number: the model's outputs may not be finite.")
        return scores.detach()


def check_update(observation: Observation) -> None:
    """Check the update against the model before anything expensive runs.

    Raises:
        FedsimError: tensors are missing, extra, mis-shaped, not finite or all zero; or a label is out of range.
    """
    expected = {n: p.shape for n, p in observation.model.named_parameters() if p.requires_grad}
    tensors = observation.update.tensors
    absent = [name for name in expected if name not in tensors and name not in observation.hidden]
    if absent:
        raise FedsimError(f"the update lacks {len(absent)} tensors of the model, first '{absent[0]}'.")
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise FedsimError(
            f"the update holds {len(extra)} tensors that the model does not train, first '{extra[0]}'."
            f"{nearest(extra[0], expected)}"
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
        raise FedsimError("every tensor of the update is zero: there is nothing to match.")
    _check_labels(observation)


def _check_labels(observation: Observation) -> None:
    labels = observation.labels
    if labels is None:
        return
    expected = observation.examples or observation.batch_size
    if expected is not None and len(labels) != expected:
        raise FedsimError(f"{len(labels)} labels were given, expected one an example: {expected}.")
    reason = observation.task.refuses_labels(labels, observation.spec)
    if reason is not None:
        raise FedsimError(f"{reason}.")
