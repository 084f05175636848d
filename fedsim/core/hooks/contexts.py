"""What a hook is told about where and when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from fedsim.core.masks import inject_masks, without_dropout
from fedsim.core.types import Batch, Draws, DropoutSite, Limits, Masks, Tensors, Tokenizer
from fedsim.core.vectors import Layout


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
        draws: what the components and the task drew for the step.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    batch: Batch
    expected: float
    masks: Masks = ()
    sites: tuple[DropoutSite, ...] = ()
    draws: Draws = field(default_factory=dict[str, Tensor])

    def dropping(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass with the masks of the step, or without dropout when there are none."""
        return inject_masks(self.sites, self.masks) if self.masks else without_dropout()


NoiseAdder = Callable[[Tensor, float], Tensor]
"""Returns a tensor plus Gaussian noise of a standard deviation."""


@dataclass(frozen=True)
class HookContext:
    """Where in a run something happens, its own source of randomness, and its own memory.

    Attributes:
        received: the weights that the client received this round.
        local: the local step, for hooks that say that they need it, and the first one for who looks at received
            weights; None in the moment of the upload.
        federation: what is public about the federation; None outside of one.
        memory: what the hook keeps by name, changed in place. It outlives the round of a client if the hook's
            class says that it `remembers`, and only then, and only if the client's update counted.
        draws: where a component writes down what it drew, by name, changed in place: for scorers, and for an attacker
            who is granted it.
        secure_noise: adds noise from a cryptographic generator, on a real node; None in a simulation, whose noise can
            be repeated from the seed.
    """

    round: int
    client: int
    step: int
    generator: torch.Generator
    received: Tensors = field(default_factory=dict[str, Tensor])
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    local: LocalStep | None = None
    federation: PublicFederation | None = None
    draws: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    secure_noise: NoiseAdder | None = None

    def add_noise(self, tensor: Tensor, deviation: float) -> Tensor:
        """Return a tensor plus Gaussian noise; the order of draws does not depend on the tensor's layout."""
        return _add_noise(tensor, deviation, self.generator, self.secure_noise)


@dataclass(frozen=True)
class GenerationContext:
    """What a generation is told beside model and state.

    Attributes:
        generators: the randomness of each row of the state, in its order. A row draws from its own one alone, so that
            its result does not depend on the rows beside it.
        limits: when the driver ends a text; None for samplers.
        shape: of one output of a sampler; () for decoders.
        tokenizer: of the model, for decoders that read what they write as text; None where nobody gave one.
    """

    generators: tuple[torch.Generator, ...]
    limits: Limits | None = None
    shape: tuple[int, ...] = ()
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class ServerRound:
    """A round as an aggregation rule sees it.

    Attributes:
        generator: the server's randomness for this round.
        expected: clients that count in a round on average: the cohort, or under Poisson sampling its expectation.
        size: coordinates of an update, P.
        received: the weights that the clients received this round, for rules that see single updates.
        layout: what stands where in a vector; None for vectors that mean nothing.
        secure_noise: adds noise from a cryptographic generator, on a real server; None in a simulation.
    """

    round: int
    generator: torch.Generator
    expected: float
    size: int
    received: Tensors = field(default_factory=dict[str, Tensor])
    layout: Layout | None = None
    secure_noise: NoiseAdder | None = None

    def add_noise(self, tensor: Tensor, deviation: float) -> Tensor:
        """Return a tensor plus Gaussian noise."""
        return _add_noise(tensor, deviation, self.generator, self.secure_noise)


def _add_noise(tensor: Tensor, deviation: float, generator: torch.Generator, secure: NoiseAdder | None) -> Tensor:
    if secure is not None:
        return secure(tensor, deviation)
    # Not empty_like: it copies the memory layout, and the order of the draws would depend on it.
    return tensor + deviation * torch.empty(tensor.shape, dtype=tensor.dtype).normal_(generator=generator)


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
class PublicFederation:
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
