"""Secrets for training text: phone numbers and e-mail addresses of generated persons, and random numbers (canaries).

Source: Carlini, Liu, Erlingsson, Kos, Song 2019, arXiv 1802.08232, section 4.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np

from fedsim.core import seeding
from fedsim.core.errors import MissingExtra
from fedsim.core.types import SecretKind

_DIGITS = 9


@dataclass(frozen=True)
class Secret:
    """A sentence and its number of repetitions in the training text; `prompt` and `form` as in `Planted`."""

    kind: SecretKind
    text: str
    repetitions: int
    prompt: str
    form: str


def secrets(
    identities: int, canaries: int, addresses: int, repetitions: tuple[int, ...], seed: int
) -> Iterator[Secret]:
    """Yield distinct phone numbers, canaries and addresses; the repetitions of each kind cycle through `repetitions`.

    Raises:
        MissingExtra: the settings require persons, and faker is not installed.
    """
    for number in range(identities):
        person = _person(seeding.derive(seed, "identity", number))
        prompt, form = f"The phone number of {person.name()} is", " ###-####."
        text = f"{prompt} {person.numerify('###-####')}."
        yield Secret("identity", text, repetitions[number % len(repetitions)], prompt, form)
    digits = np.random.default_rng(seeding.derive(seed, "canaries")).choice(10**_DIGITS, canaries, replace=False)
    for number, value in enumerate(digits.tolist()):
        prompt, form = "The secret number is", f" {'#' * _DIGITS}."
        text = f"{prompt} {value:0{_DIGITS}d}."
        yield Secret("canary", text, repetitions[number % len(repetitions)], prompt, form)
    for number in range(addresses):
        person = _person(seeding.derive(seed, "address", number))
        prompt, form = f"The e-mail address of {person.name()} is", " ????##@example.org."
        text = f"{prompt} {person.bothify('????##', letters=ascii_lowercase)}@example.org."
        yield Secret("address", text, repetitions[number % len(repetitions)], prompt, form)


def _person(seed: int) -> Any:
    person = _faker()
    person.seed_instance(seed)
    return person


def _faker() -> Any:
    try:
        return importlib.import_module("faker").Faker("en_US")
    except ImportError:
        raise MissingExtra("faker, which generates identities,", "pip install 'fedsim-privacy[llm]'") from None
