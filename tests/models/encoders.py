"""Sentence encoders of the registry."""

from typing import Any

from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.types import InputSpec

SPEC = InputSpec((6,), 1, (), (), vocabulary=11, padding=10)


def build(name: str = "tiny-encoder", about: InputSpec = SPEC, **settings: Any) -> nn.Module:
    method = registry.get("model", name)
    with seeding.isolate_randomness(3):
        return method.make(method.config.model_validate(settings), about)
