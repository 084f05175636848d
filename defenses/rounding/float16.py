"""Half precision: every entry rounded to 16 bits, IEEE 754 binary16.

A control, no defense: about three digits remain, which ends closed forms that read exact zeros of a residual, and
hardly disturbs anything else. Entries beyond the largest number, 65,504, become that number.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from defenses.core.tensors import TensorConfig, TensorDefense
from fedsim.core.hooks import Here, Place
from fedsim.core.registry import defense
from fedsim.core.types import PublicKnowledge, Tensors


class Float16Config(TensorConfig):
    """Half precision has no settings of its own."""


@final
@defense("float16", summary="rounds every entry to half precision; a control")
class Float16(TensorDefense[Float16Config]):
    """Rounds to the nearest, ties to even."""

    place: ClassVar[Place] = "quantise"

    def changed(self, tensors: Tensors, here: Here) -> Tensors:
        """Return the rounded tensors, in the type that they had."""
        largest = torch.finfo(torch.float16).max
        return {name: t.clamp(-largest, largest).half().to(t.dtype) for name, t in tensors.items()}

    def adaptive_view(self) -> PublicKnowledge:
        """Return that entries are rounded."""
        return PublicKnowledge("float16", {"rounded": True})
