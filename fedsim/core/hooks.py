"""Every moment at which something may plug into a client or a server, in the order they run.

    prepare    the model, before any training            components: layer, adapter, bottleneck, token_reducer; defenses
    initialise the model, from public examples           the same components
    craft      the model, before clients receive it       attacks of a malicious server
    augment    each batch                                components: augment; defenses
    objective  the training loss, from the outputs       components: loss, at most one
    loss       one more term of the training loss        components: loss; defenses
    examples   each example's gradient                   defenses, at most one
    gradient   each gradient, before the optimizer       defenses
    step       the weights, from the gradient            components: optimizer
    upload     the update, before it is sent             defenses
    aggregate  one vector of a round's updates           aggregators
    attack     what the server does with what it saw     attacks
    score      how likely an example was trained on      membership attacks

Classes here are abstract; a method is a final subclass of one of them in a file of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, final, get_args

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, NotApplicable, nearest
from fedsim.core.informed import informed
from fedsim.core.losses import IGNORED, are_tokens
from fedsim.core.masks import injected_masks, without_dropout
from fedsim.core.types import (
    Applicability,
    Batch,
    Config,
    Contribution,
    DropoutSite,
    InputSpec,
    Knowledge,
    Masks,
    Mechanism,
    MembershipObservation,
    Modality,
    Observation,
    OnStep,
    PublicKnowledge,
    Reconstruction,
    ShadowPlan,
    Target,
    Tensors,
    Truth,
    Update,
    View,
)
from fedsim.core.vectors import Layout

ConfigT = TypeVar("ConfigT", bound=Config)
Effort = Literal["algebra", "search", "descent", "reference"]
Place = Literal["input", "model", "examples", "layers", "clip", "prune", "noise", "quantise"]
PLACES: tuple[Place, ...] = get_args(Place)
IMAGES: frozenset[Modality] = frozenset({"images"})
IMAGES_AND_TEXT: frozenset[Modality] = frozenset({"images", "text"})


@dataclass(frozen=True)
class LocalStep:
    """What a client computes on in one local step, for hooks that look into it.

    Attributes:
        model: with its present weights, in training mode.
        parameters: those of the model that are trained, by name.
        batch: as the model sees it; under Poisson sampling it may be empty.
        expected: examples expected in a batch, by which private means are divided.
        masks: the dropout masks of the step, in call order; empty before the step's forward pass.
        sites: where the model drops out.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    batch: Batch
    expected: float
    masks: Masks = ()
    sites: tuple[DropoutSite, ...] = ()

    def dropping(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass with the masks of the step, or without dropout when there are none."""
        return injected_masks(self.sites, self.masks) if self.masks else without_dropout()


@dataclass(frozen=True)
class Here:
    """Where in a run something happens, its own source of randomness, and its own memory.

    Attributes:
        received: the weights that the client received this round.
        local: the local step, for hooks that say that they need it; None in the moment of the upload.
        rules: what is public about the federation; None outside of one.
        memory: what the hook keeps by name, changed in place. It outlives the round of a client if the hook's
            class says that it `remembers`, and only then, and only if the client's update counted.
        draws: where a component writes down what it drew, by name, changed in place: for scorers, and for an attacker
            who is granted it.
    """

    round: int
    client: int
    step: int
    generator: torch.Generator
    received: Tensors = field(default_factory=dict[str, Tensor])
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    local: LocalStep | None = None
    rules: Rules | None = None
    draws: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True)
class ServerRound:
    """A round as an aggregation rule sees it.

    Attributes:
        generator: the server's randomness for this round.
        expected: clients that count in a round on average: the cohort, or under Poisson sampling its expectation.
        size: coordinates of an update, P.
        received: the weights that the clients received this round, for rules that see single updates.
        layout: what stands where in a vector; None for vectors that mean nothing.
    """

    round: int
    generator: torch.Generator
    expected: float
    size: int
    received: Tensors = field(default_factory=dict[str, Tensor])
    layout: Layout | None = None


class Grid(Protocol):
    """How coordinates become integers behind secure aggregation: clipped to a range, rounded to steps."""

    @property
    def clipping_range(self) -> float:
        """Coordinates are clipped to [-clipping_range, clipping_range]."""
        ...

    @property
    def step(self) -> float:
        """The distance of two neighbouring levels."""
        ...


@dataclass(frozen=True)
class Rules:
    """What is public about a scenario's federation, for defenses that need to know what they are part of.

    Attributes:
        steps: most local steps that a client takes in a round.
        batch_size: examples of a step; under Poisson sampling the expectation.
        examples: examples of the client that owns fewest.
        most_examples: examples of the client that owns most.
        shape: of one example.
        classes: number of classes.
        loss_terms: names of the components that add to the loss.
        batch_readers: names of the hooks that change a batch, add to the loss after the forward pass, or look into a
            local step, but for a defense that takes the gradient of every example; and of what in the model takes a
            batch as a whole.
        hides_updates: whether secure aggregation hides the updates of single clients.
        smallest_sum: fewest updates in a sum that the server learns; 1 where it sees single updates.
        quantisation: how updates become integers behind secure aggregation.
        vocabulary: number of tokens, if examples are token numbers.
        label_shape: of one example's label: () for classes, (T,) where every token has one.
        padding: the token that fills up a short example; None where there is none.
        borders: tokens that stand in front of a text and behind it, and are no part of it.
    """

    algorithm: Literal["fedsgd", "fedavg"]
    rounds: int
    steps: int
    batch_size: int
    examples: int
    most_examples: int
    shape: tuple[int, ...]
    classes: int
    sampling: Literal["passes", "poisson"]
    clients: int
    cohort: float
    cohort_sampling: Literal["fixed", "poisson"]
    loss_terms: tuple[str, ...]
    batch_readers: tuple[str, ...]
    hides_updates: bool
    smallest_sum: int
    quantisation: Grid | None
    vocabulary: int | None = None
    label_shape: tuple[int, ...] = ()
    padding: int | None = None
    borders: tuple[int, ...] = ()

    def probe(self, examples: int) -> Batch:
        """Return random inputs and labels of the right kinds and shapes, the same each time, to try a model with."""
        generator = torch.Generator().manual_seed(0)
        shape = (examples, *self.shape)
        if self.vocabulary is None:
            inputs = torch.randn(shape, generator=generator)
        else:
            inputs = torch.randint(self.vocabulary, shape, generator=generator)
        return Batch(inputs, torch.randint(self.classes, (examples, *self.label_shape), generator=generator))


class _Configured(ABC, Generic[ConfigT]):
    """A method with its settings.

    Attributes:
        remembers: whether it keeps its memory over the rounds of a client.
        modalities: what the examples may be that it works on.
    """

    remembers: bool = False
    modalities: ClassVar[frozenset[Modality]] = IMAGES

    def __init__(self, config: ConfigT) -> None:
        self.config = config


class Component(_Configured[ConfigT]):
    """What every component of a client's model or training may say about itself."""

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Return why it does not fit this federation or model, in words that end a sentence, or None when it does.

        Args:
            rules: the federation.
            model: the clients' model with its first weights, with every component and defense in it.
        """
        return None

    def public_view(self) -> PublicKnowledge | None:
        """Return what an attacker who knows the components knows, or None when the model shows all there is."""
        return None

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Compare what an attacker `found` of this component with the truth: shares in [0, 1], by a name for people.

        Args:
            model: the clients' model with the weights that the update answers, in training mode; it may be changed.
            truth: the private side of the update.
            guess: the attacker's.
        """
        return {}


class ModelComponent(Component[ConfigT]):
    """Hooks layer, adapter, bottleneck, token_reducer: changes the model once, before training."""

    @abstractmethod
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model to train; it may be the same object, changed.

        Raises:
            NotApplicable: the model has no place for this component.
        """

    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        """Set first values that depend on data, in place, once every component and defense is in the model.

        Args:
            model: in training mode.
            public: examples of the server's own, without labels, normalised, shape (N, *spec.shape): the test set, or
                none at all where that is the training set.
            generator: the same in every process of a run.

        Raises:
            NotApplicable: it needs examples, or others than these.
        """

    def step_factors(self, parameters: Tensors) -> Tensors:
        """Return what the optimizer's change of a parameter is multiplied by, by its name; none where it stays.

        Args:
            parameters: the trained ones before a local step; of several clients at once, with one dimension more in
                front.
        """
        return {}

    @property
    def batch_reader(self) -> str | None:
        """What of it takes a batch as a whole, by a name for people, so that examples cannot be told apart; or None."""
        return None

    @final
    @property
    def initialises(self) -> bool:
        """Whether it sets first values from data."""
        return type(self).initialise is not ModelComponent.initialise


class Augmentation(Component[ConfigT]):
    """Hook augment: changes each batch before the forward pass."""

    @abstractmethod
    def augment(self, batch: Batch, here: Here) -> Batch:
        """Return a batch of the same input shape and length; labels may become probabilities of shape (B, K)."""


class Objective(Component[ConfigT]):
    """Hook loss: what a client minimises in place of the cross-entropy. A model may be prepared by the same class."""

    @abstractmethod
    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            outputs: what the model returns in training.
            labels: classes (B,), or probabilities (B, K).
            round_: from 1, for what changes in the course of a training.
        """


class LossTerm(Component[ConfigT]):
    """Hook loss: a term added to the client's loss."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, outputs: Tensor, here: Here) -> Tensor:
        """Return a scalar."""


class Optimizer(Component[ConfigT]):
    """Hook optimizer: turns gradients into weights, for one local training."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Step size, in units of weight per gradient."""

    @abstractmethod
    def step(self, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Change `parameters` in place. `state` starts empty in every local training and is the optimizer's own."""

    @final
    @torch.no_grad()
    def weighed_step(self, factors: Tensors, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Take a step, and multiply by a factor what it changed in each parameter that has one."""
        before = {name: parameters[name].clone() for name in factors}
        self.step(parameters, gradient, state)
        for name, factor in factors.items():
            parameters[name].copy_(torch.lerp(before[name], parameters[name], factor))


class Defense(_Configured[ConfigT]):
    """Changes what a client computes or sends. Override the moments it needs; the others do nothing.

    Attributes:
        place: where it stands when a scenario has several; those of one place keep the scenario's order.
        needs_step: whether its moments read `Here.local`, which an engine that trains clients together cannot give.
    """

    place: ClassVar[Place] = "layers"
    needs_step: ClassVar[bool] = False

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Return why it does not fit this federation or model, in words that end a sentence, or None when it does."""
        return None

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model to train; it may be the same object, changed.

        Raises:
            NotApplicable: the model has no place for it.
        """
        return model

    def on_batch(self, batch: Batch, here: Here) -> Batch:
        """Return a batch of the same input shape and length; labels may become probabilities of shape (B, K)."""
        return batch

    def loss(self, outputs: Tensor, here: Here) -> Tensor | None:
        """Return a scalar that is added to the client's loss, after the forward pass of a step."""
        return None

    def on_examples(self, losses: Callable[[], Tensor], here: Here) -> tuple[float, Tensors]:
        """Return the step's mean loss and gradient, in place of the plain ones.

        Args:
            losses: runs the model on the batch of `here.local`, and returns each example's loss, shape (B,); call it
                once, and only if the batch has an example.
            here: with the local step.
        """
        raise NotImplementedError

    def on_gradient(self, gradient: Tensors, here: Here) -> Tensors:
        """Return the gradient that the optimizer (or, in FedSGD, the server) gets."""
        return gradient

    def on_upload(self, update: Update, here: Here) -> Update:
        """Return the update that goes onto the wire."""
        return update

    def mechanism(self, rules: Rules) -> Mechanism | None:
        """Return the private mechanism that a client runs in each round, or None when there is no guarantee."""
        return None

    @abstractmethod
    def adaptive_view(self) -> PublicKnowledge:
        """Return what an attacker who knows the defense's description knows."""

    @final
    def overrides(self, moment: str) -> bool:
        """Say whether the defense does anything in a moment, named by its method."""
        return getattr(type(self), moment) is not getattr(Defense, moment)


class Aggregator(_Configured[ConfigT]):
    """Hook aggregate: combines the updates of a round. An instance lives for one run.

    The server hands the result to its optimizer in place of a gradient, which subtracts a step along it from the
    weights.

    Attributes:
        needs_single_updates: whether the rule looks at the updates of single clients, which secure aggregation
            hides from the server.
        acts_without_updates: whether a round in which no update counted changes the model too.
    """

    needs_single_updates: ClassVar[bool]
    acts_without_updates: ClassVar[bool] = False

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Return why it does not fit this federation or model, in words that end a sentence, or None when it does."""
        return None

    def weight(self, examples: int) -> int:
        """Return what an update of so many examples counts in the sum behind secure aggregation.

        There the rule gets one contribution: the mean of all updates, with their total weight as its examples, and
        the first participant as its client.
        """
        return examples

    @abstractmethod
    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        """Return one vector, shape (P,), of the contributions' dtype. Their vectors stay as they are.

        Args:
            contributions: at least one unless the rule `acts_without_updates`, in the order of client numbers; may be
                readable only once.
            here: the round.

        Raises:
            FedsimError: the rule's settings do not fit the number of contributions.
        """

    def mechanism(self, rules: Rules) -> Mechanism | None:
        """Return the private mechanism that the server runs in each round, or None when there is no guarantee."""
        return None


class Attack(_Configured[ConfigT]):
    """Turns an observation into a guess of the client's data. Authors write `search`.

    Attributes:
        needs: what the threat model must grant.
        views: what the attack works on: updates of single clients, or also the mean of a round's updates.
        effort: algebra takes milliseconds, search seconds, descent thousands of gradients; reference attacks exist to
            be compared with, and no attacker would choose them.
        crafts: whether it overrides `craft`, which takes a malicious server.
        undoes: whether it searches a known change of the batch along with the data, so that its guess is what was
            there before the change, and not what the model saw.
        over_rounds: whether it looks at `Observation.earlier`; other attacks find nothing there.
    """

    effort: ClassVar[Effort] = "descent"
    needs: ClassVar[frozenset[Knowledge]] = frozenset()
    views: ClassVar[frozenset[View]] = frozenset({"single-update"})
    crafts: ClassVar[bool] = False
    undoes: ClassVar[bool] = False
    over_rounds: ClassVar[bool] = False

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
        """Return the best guess; call `on_step` once an iteration."""

    @classmethod
    def within(cls, gradients: int) -> dict[str, Any]:
        """Return the settings that make the most of about so many gradients; none where it computes few anyway."""
        return {}

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
        self, observation: Observation, generator: torch.Generator, on_step: OnStep = lambda _step: None
    ) -> Reconstruction:
        """Check the observation, take what known defenses call for, then search. The observed model stays as it was.

        Raises:
            NotApplicable: with the reason.
            FedsimError: tensors of the update are missing, extra, mis-shaped, not finite or all zero.
        """
        return self.search(self._checked(observation), generator, on_step)

    @final
    def together(
        self, observations: Sequence[Observation], generators: Sequence[torch.Generator], on_steps: Sequence[OnStep]
    ) -> list[Reconstruction]:
        """Check every observation, then search on all of them.

        Raises:
            NotApplicable: with the reason.
            FedsimError: as for a single observation.
        """
        checked = [self._checked(observation) for observation in observations]
        return self.search_together(checked, generators, on_steps)

    def _checked(self, observation: Observation) -> Observation:
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
        modality = observation.spec.modality
        if modality not in self.modalities:
            return Applicability(
                False, f"works on {' and '.join(sorted(self.modalities))}, and the examples are {modality}"
            )
        if observation.threat.sees not in self.views:
            views = ", ".join(sorted(self.views))
            return Applicability(False, f"works on {views}, but the server sees {observation.threat.sees}")
        reason = self.not_applicable(observation)
        return Applicability(reason is None, reason or "")


class MembershipAttack(_Configured[ConfigT]):
    """Says of every candidate how likely it was trained on. Authors write `score`.

    Attributes:
        target: what it judges. On the model, members are training examples of all clients; on updates, those of the
            client that sent them.
    """

    target: ClassVar[Target] = "model"

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
        if "text" not in self.modalities and not observation.candidates.inputs.is_floating_point():
            raise NotApplicable("works on images, and the examples are text")
        reason = self.not_applicable(observation)
        if reason is not None:
            raise NotApplicable(reason)
        scores = self.score(observation, generator)
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
    labels, classes = observation.labels, observation.spec.classes
    if labels is None:
        return
    expected = observation.examples or observation.batch_size
    if expected is not None and len(labels) != expected:
        raise FedsimError(f"{len(labels)} labels were given, expected one an example: {expected}.")
    strangers = labels[((labels < 0) | (labels >= classes)) & ~(are_tokens(labels) & (labels == IGNORED))]
    if len(strangers):
        raise FedsimError(f"label {int(strangers[0])} is out of range, expected 0 to {classes - 1}.")
