"""Salted generators for attacks: without the secret salt, an attack cannot derive the scenario's seed from its draws.

A generator's seed is derived from the scenario's seed by public functions, so an exhaustive search of small seeds finds
it. With a salt it is derived from both by a keyed hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from fedsim.core.choices import Choice
from fedsim.core.types import OnStep
from fedsim.processes.methods import AnswerT, MethodRunner, ShouldStop, Start, ignore_step


@dataclass(frozen=True)
class SaltedStart:
    """A start function that gives methods salted generators.

    Attributes:
        start: starts the methods.
        salt: the secret of the run, which also decides the order of an attack's observations.
    """

    start: Start
    salt: bytes

    @contextmanager
    def __call__(self, choice: Choice, should_stop: ShouldStop) -> Iterator[MethodRunner]:
        """Start an attack for as long as the block lasts."""
        with self.start(choice, should_stop) as method:
            yield _Salted(method, self.salt)


def salt_of(start: Start) -> bytes:
    """Return the salt of a start; empty where it has none."""
    return start.salt if isinstance(start, SaltedStart) else b""


@dataclass(frozen=True)
class _Salted:
    """A method with salted generators."""

    method: MethodRunner
    salt: bytes

    def call(
        self,
        function: Callable[..., AnswerT],
        *seen: Any,
        generators: Sequence[torch.Generator] = (),
        watch: OnStep = ignore_step,
        seconds: float | None = None,
    ) -> AnswerT:
        changed = [_salt_generator(generator, self.salt) for generator in generators]
        return self.method.call(function, *seen, generators=changed, watch=watch, seconds=seconds)


def _salt_generator(generator: torch.Generator, salt: bytes) -> torch.Generator:
    """Return a new generator for an unused generator: its seed is 63 bits of a keyed hash of the old seed."""
    seed = generator.initial_seed().to_bytes(8, "little")
    digest = hashlib.blake2b(seed, key=salt, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
