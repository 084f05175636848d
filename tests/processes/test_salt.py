"""Attacks of every kind draw from generators that depend on the salt and on the seed, and see neither."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fedsim.core import seeding
from fedsim.core.hooks import Attack
from fedsim.processes.methods import MethodRunner
from fedsim.processes.salt import SaltedStart, salt_of
from fedsim.scenario import Choice

SALT = bytes(range(16))


def expected(seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(seed.to_bytes(8, "little"), key=SALT, digest_size=8).digest(), "little") >> 1


class Spying:
    """Notes the seeds of all generators that it is given, and what it is asked."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.calls: list[str] = []

    def call(
        self, function: Callable[..., Any], *_seen: Any, generators: Sequence[torch.Generator], **_more: Any
    ) -> Any:
        self.calls.append(function.__name__)
        self.seeds += [generator.initial_seed() for generator in generators]
        return 3

    @contextmanager
    def start(self, choice: Choice, should_stop: Callable[[], bool]) -> Iterator[MethodRunner]:
        yield self


def test_every_generator_that_a_method_gets_is_salted() -> None:
    spy = Spying()
    sources = [seeding.generator(11, "attack", client) for client in range(2)]
    seeds = [source.initial_seed() for source in sources]
    with SaltedStart(spy.start, SALT)(Choice(name="dlg"), lambda: False) as attack:
        assert attack.call(Attack.max_victims, None) == 3
        attack.call(Attack.together, [], generators=sources)
    assert spy.calls == ["max_victims", "together"]
    assert spy.seeds == [expected(seed) for seed in seeds]
    assert not set(spy.seeds) & set(seeds)


def test_the_salt_of_a_start_is_found_and_absent_where_there_is_none() -> None:
    spy = Spying()
    assert salt_of(SaltedStart(spy.start, SALT)) == SALT
    assert salt_of(spy.start) == b""
