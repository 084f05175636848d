"""sign: sends a bit per entry, the sign; zeros stay zeros.

Without `scaled` the step size must be far smaller. Zeros reveal dropped units. The signs of a rank-one matrix have rank
one, so a closed form solves them without residual, for a wrong image; therefore exact attacks also check that the guess
explains the whole gradient.

Idea: Magnitudes carry much of the input's detail, and training needs directions only.
Equation: g' = sign(g); with `scaled` g' = mean |g_l| sign(g) for each tensor g_l.
Assumes: a server that sees a single gradient and does not know the defense.
Protects: details of the input. Biased, no guarantee: direction, labels and outlines remain.
Fails: against matching a soft sign of the guess's gradient to the signs.
Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 1 (signSGD); scale: Karimireddy et al. 2019, arXiv
    1901.09847, section 4.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field

from defenses.core.tensors import TensorConfig, TensorDefense
from fedsim.core.hooks import HookContext, Place
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors
from fedsim.core.types.effects import SignsOnly


class SignConfig(TensorConfig):
    """Settings of signs."""

    scaled: bool = Field(
        default=False, description="whether each tensor's signs are multiplied by its mean absolute value"
    )


@final
@defense(
    "sign",
    summary="sends the sign of every entry (signSGD)",
    tier="baseline",
    paper="1802.04434",
    fidelity="reproduction",
    paper_steps=(("sign of each entry", "Sign.change"),),
    aliases=("signsgd",),
)
class Sign(TensorDefense[SignConfig]):
    """Sends signs, without randomness."""

    place: ClassVar[Place] = "rounding"

    def change(self, tensors: Tensors, context: HookContext) -> Tensors:
        """Return the signs."""
        if not self.config.scaled:
            return {name: t.sign() for name, t in tensors.items()}
        return {name: t.abs().mean() * t.sign() for name, t in tensors.items()}

    def adaptive_view(self) -> MethodDescription:
        """Return that only signs are sent."""
        return MethodDescription("sign", (SignsOnly(),))
