"""What the descriptions of defenses tell an attacker that was granted them.

Tensors that a defense makes unreliable are removed before an attack begins (`fedsim.core.informed`). This module reads
the other effects.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from attacks.core.tolerances import TINY
from fedsim.core.types import DropoutSite, Observation
from fedsim.core.types.effects import AddedNoise, Clipped, Effect, Kept, Noise, Rounded, Signs

_SHARPNESS = 5.0


class Wire(NamedTuple):
    """The part of a gradient that known defenses send, so that a dummy's gradient can be compared with it.

    Attributes:
        only_sent: zeros of an observed tensor were not sent, so these entries are not compared.
        only_signs: only the signs of an observed tensor are compared.
    """

    only_sent: bool = False
    only_signs: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether whole gradients are compared unchanged."""
        return not (self.only_sent or self.only_signs)

    def as_compared(self, observed: Tensor) -> Tensor:
        """Return an observed tensor in the form in which it is compared."""
        return observed.sign() if self.only_signs else observed

    def as_sent(self, gradient: Tensor, observed: Tensor) -> Tensor:
        """Return a dummy's gradient in the same form: entries that were sent; for signs tanh(c g / mean |g|)."""
        if self.only_signs:
            gradient = (_SHARPNESS * gradient / gradient.abs().mean().clamp_min(TINY)).tanh()
        return gradient * (observed != 0) if self.only_sent else gradient


PLAIN = Wire()

_INEXACT: dict[type[Effect], str] = {
    Signs: "sends signs alone",
    Rounded: "rounds what is sent",
    Kept: "sends a part of the entries",
}


def wire_of(observation: Observation) -> Wire:
    """Return the form in which gradients are compared. A mean over several clients no longer holds signs."""
    is_single = observation.threat.sees == "single-update"
    return Wire(sends_part(observation), is_single and bool(observation.effects(Signs)))


def sends_part(observation: Observation) -> bool:
    """Whether a defense says that it sends only a share of the entries; the others are unknown."""
    return bool(observation.effects(Kept))


def adds_noise(observation: Observation) -> bool:
    """Whether a defense says that it adds noise, of whatever size."""
    return bool(observation.effects(Noise))


def noise_of(observation: Observation) -> AddedNoise | None:
    """Return the noise that a defense says it adds, or None when none gives its law and its scale."""
    return next(iter(observation.effects(AddedNoise)), None)


def bound_of(observation: Observation) -> float | None:
    """Return the norm to which a defense says that it clips whole gradients, or None."""
    return min((clipped.norm for clipped in observation.effects(Clipped)), default=None)


def inexact(observation: Observation) -> str | None:
    """Return why the update's equations do not hold exactly, as a clause without a full stop, or None.

    Exact attacks then still give an estimate, but must not call it exact.
    """
    for known in observation.public:
        for effect in known.effects:
            for kind, deed in _INEXACT.items():
                if isinstance(effect, kind):
                    return f"the defense '{known.source}' {deed}"
    return "a defense adds noise" if adds_noise(observation) else None


def searched_sites(observation: Observation) -> tuple[DropoutSite, ...]:
    """Return the dropout sites whose masks an informed attacker searches: none, unless the rates are known."""
    return observation.sites if "dropout-rates" in observation.threat.knows else ()
