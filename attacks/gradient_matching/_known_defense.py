"""Attacks that match gradients knowing what the defenses in use did."""

from __future__ import annotations

from typing import Any, ClassVar

from attacks._matching import ConfigT, MatchingAttack
from fedsim.types import Knowledge


class InformedAttack(MatchingAttack[ConfigT]):
    """A matching attack that needs the description of the defenses."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses"})

    @classmethod
    def within(cls, gradients: int) -> dict[str, Any]:
        """Return so many iterations of falling steps."""
        return {"iterations": gradients, "schedule": "cosine", "sign": "soft"}
