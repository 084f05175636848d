"""Base class of matching attacks that use knowledge of the client's defenses."""

from __future__ import annotations

from typing import Any, ClassVar

from attacks.core.matching.attack import MaskSearchAttack, MaskSearchT
from fedsim.core.types import Knowledge


class InformedAttack(MaskSearchAttack[MaskSearchT]):
    """A matching attack that needs the description of the defenses."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses"})

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return this number of iterations, with a cosine schedule and soft signs."""
        return {"max_iterations": gradients, "schedule": "cosine", "sign": "soft"}
