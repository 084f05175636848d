"""Observations whose random inputs lie in the pixel range."""

from dataclasses import replace
from typing import Any

import pytest

from fedsim.core.types import Observation, Truth
from tests.attacks.solving import Toy


@pytest.fixture
def toy(toy: Toy) -> Toy:
    """Random inputs are no images: a standard deviation of a tenth leaves room for them in the pixel range."""

    def build(*args: Any, **settings: Any) -> tuple[Observation, Truth]:
        observation, truth = toy(*args, **settings)
        return replace(observation, spec=replace(observation.spec, std=(0.1,) * len(observation.spec.std))), truth

    return build
