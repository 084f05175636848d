"""Base class of attribute attacks: standardise features of weight deltas and classify them by a probe."""

from __future__ import annotations

from typing import Any, TypeVar, final

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fedsim.core import registry
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.types import Config
from fedsim.questions.attributes.hooks import AttributeAttack

_LEAST_SPREAD = 1e-6  # floor of a feature's standard deviation: a constant feature has no information


def _probes() -> list[str]:
    return [name for name, entry in registry.entries("component").items() if entry.hook == "probe"]


class ReadingConfig(Config):
    """Settings of attacks that classify by a probe."""

    probe: str = Field(default="ridge", description="component of hook probe that infers the values, with its defaults")

    @field_validator("probe")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in _probes():
            raise ValueError(f"there is no probe '{name}'.{did_you_mean(name, _probes())}")
        return name


ReadingT = TypeVar("ReadingT", bound=ReadingConfig)


class ReadingAttack(AttributeAttack[ReadingT]):
    """Classifies the features that `describe` computes, by a probe."""

    @final
    def read(self, known: Tensor, labels: Tensor, unknown: Tensor, generator: torch.Generator) -> Tensor:
        """Return the probe's predictions on features standardised over the public weight deltas."""
        method = registry.get("component", self.config.probe)
        probe: Any = method.make(method.config())
        centre, spread = known.mean(0), known.std(0).clamp_min(_LEAST_SPREAD)
        learned = probe.fit((known - centre) / spread, labels, generator)
        return probe.predict(learned, (unknown - centre) / spread)


def check_not_empty(sizes: int) -> None:
    """Raise if the server sees no tensor of an update.

    Raises:
        FedsimError: no tensor is shared.
    """
    if not sizes:
        raise FedsimError("the server sees no tensor of the updates. Widen threat.visible_parameters.")
