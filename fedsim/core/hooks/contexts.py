"""Contexts passed to hooks: local step, client round, server round, generation, and public federation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from fedsim.core.nets.masks import disable_dropout, inject_masks
from fedsim.core.nets.vectors import Layout
from fedsim.core.types import Batch, Draws, DropoutSite, Limits, Masks, Tensors, Tokenizer


@dataclass(frozen=True)
class LocalStep:
    """State of a client's local step, for hooks that need it.

    Attributes:
        model: with its current weights, in training mode.
        parameters: the trained parameters, by name.
        batch: the batch as the model gets it; possibly empty under Poisson sampling.
        expected_batch_size: expected batch size, the divisor of private means.
        masks: dropout masks of the step, in call order; empty before the step's forward pass.
        sites: dropout sites of the model.
        draws: random draws of components and task in the step.
    """

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    batch: Batch
    expected_batch_size: float
    masks: Masks = ()
    sites: tuple[DropoutSite, ...] = ()
    draws: Draws = field(default_factory=dict[str, Tensor])

    def apply_masks(self) -> AbstractContextManager[None]:
        """Return a context for a forward pass with the step's masks, or without dropout if it has no masks."""
        return inject_masks(self.sites, self.masks) if self.masks else disable_dropout()


NoiseAdder = Callable[[Tensor, float], Tensor]
"""Returns a tensor plus Gaussian noise of a standard deviation."""


@dataclass(frozen=True)
class HookContext:
    """Position of a hook call in a run, with its random source and memory.

    Attributes:
        received_weights: weights that the client received this round.
        local: local step, for hooks that require it, and the first step for hooks on received weights; None at upload.
        federation: public facts of the federation; None outside of a federation.
        memory: tensors that the hook stores by name, changed in place. They persist between a client's rounds only if
            the hook's class sets `keeps_state`, and only if the client's update counted.
        draws: random draws that a component records by name, changed in place: for scores, and for an attacker that is
            granted them.
        secure_noise: adds noise from a cryptographic generator, on a real node; None in a simulation, whose noise can
            be repeated from the seed.
    """

    round: int
    client: int
    step: int
    generator: torch.Generator
    received_weights: Tensors = field(default_factory=dict[str, Tensor])
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    local: LocalStep | None = None
    federation: PublicFederation | None = None
    draws: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    secure_noise: NoiseAdder | None = None

    def add_noise(self, tensor: Tensor, deviation: float) -> Tensor:
        """Return a tensor plus Gaussian noise; the order of draws does not depend on the tensor's layout."""
        if self.secure_noise is not None:
            return self.secure_noise(tensor, deviation)
        return _add_gaussian(tensor, deviation, self.generator)


@dataclass(frozen=True)
class GenerationContext:
    """Inputs of a generation besides model and state.

    Attributes:
        generators: random source of each row of the state, in order. A row uses only its own generator, so its result
            is independent of other rows.
        limits: stopping criteria; None for samplers.
        shape: shape of a sample; () for decoders.
        tokenizer: the model's tokenizer, for decoders that need text; may be None.
    """

    generators: tuple[torch.Generator, ...]
    limits: Limits | None = None
    shape: tuple[int, ...] = ()
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class ServerRound:
    """Round data of an aggregation rule.

    Attributes:
        generator: random source of the server in this round.
        expected_clients: number of clients of a round: the cohort size, or under Poisson sampling its expectation.
        size: number of coordinates of an update, P.
        received_weights: weights that the clients received this round, for rules that use single updates.
        layout: position of each tensor in a vector; None for vectors without layout.
    """

    round: int
    generator: torch.Generator
    expected_clients: float
    size: int
    received_weights: Tensors = field(default_factory=dict[str, Tensor])
    layout: Layout | None = None

    def add_noise(self, tensor: Tensor, deviation: float) -> Tensor:
        """Return a tensor plus Gaussian noise of the generator: aggregation rules run in simulations alone."""
        return _add_gaussian(tensor, deviation, self.generator)


def _add_gaussian(tensor: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    # Not empty_like: it copies the memory layout, and the order of the draws would depend on it.
    return tensor + deviation * torch.empty(tensor.shape, dtype=tensor.dtype).normal_(generator=generator)


class QuantisationGrid(Protocol):
    """Conversion of coordinates to integers in secure aggregation: clipping range and rounding step."""

    @property
    def clipping_range(self) -> float:
        """Coordinates are clipped to [-clipping_range, clipping_range]."""
        ...

    @property
    def step(self) -> float:
        """Distance of two neighbouring levels."""
        ...


@dataclass(frozen=True)
class PublicFederation:
    """Public facts of a scenario's federation, for components and defenses.

    Attributes:
        steps: maximum number of local steps of a client per round.
        batch_size: examples per step; under Poisson sampling the expectation.
        examples: smallest number of examples of a client.
        most_examples: largest number of examples of a client.
        shape: shape of an example.
        classes: number of classes.
        loss_terms: names of the components that add to the loss.
        batch_readers: names of the hooks that change a batch, add to the loss after the forward pass, or use the local
            step, except a defense that uses per-example gradients; and of model parts that use a batch as a whole.
        hides_updates: whether secure aggregation hides the updates of single clients.
        smallest_sum: smallest number of updates in a sum that the server learns; 1 if it sees single updates.
        quantisation: conversion of updates to integers in secure aggregation.
        vocabulary: number of tokens, if examples are token ids.
        label_shape: shape of an example's label: () for classes, (T,) for token labels.
        padding: padding token; None if absent.
        borders: special tokens at the beginning and end of a text, which do not belong to it.
    """

    algorithm: Literal["fedsgd", "fedavg"]
    rounds: int
    steps: int
    batch_size: int
    examples: int
    most_examples: int
    shape: tuple[int, ...]
    classes: int
    sampling: Literal["shuffle", "poisson"]
    clients: int
    cohort: float
    cohort_sampling: Literal["fixed", "poisson"]
    loss_terms: tuple[str, ...]
    batch_readers: tuple[str, ...]
    hides_updates: bool
    smallest_sum: int
    quantisation: QuantisationGrid | None
    vocabulary: int | None = None
    label_shape: tuple[int, ...] = ()
    padding: int | None = None
    borders: tuple[int, ...] = ()

    def probe(self, examples: int) -> Batch:
        """Return random inputs and labels with valid kinds and shapes, the same each time, to test a model with."""
        generator = torch.Generator().manual_seed(0)
        shape = (examples, *self.shape)
        if self.vocabulary is None:
            inputs = torch.randn(shape, generator=generator)
        else:
            inputs = torch.randint(self.vocabulary, shape, generator=generator)
        return Batch(inputs, torch.randint(self.classes, (examples, *self.label_shape), generator=generator))
