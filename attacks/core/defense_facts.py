"""Attacker knowledge of defenses: effects that granted descriptions of defenses declare.

Tensors that a defense makes unreliable are removed before an attack begins (`fedsim.core.hooks.attacks`). This
module reads the other effects.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from attacks.core.tolerances import TINY
from fedsim.core.types import DropoutSite, Observation
from fedsim.core.types.effects import AddedNoise, Clipped, Effect, Noise, Rounded, SignsOnly, Sparsified

_SHARPNESS = 5.0


class Wire(NamedTuple):
    """Transformation of gradients by known defenses, applied to a dummy input's gradient before the comparison.

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
        """Return the form of an observed tensor that is compared."""
        return observed.sign() if self.only_signs else observed

    def as_sent(self, gradient: Tensor, observed: Tensor) -> Tensor:
        """Return a dummy input's gradient in the same form: only sent entries; tanh(c g / mean |g|) for signs."""
        if self.only_signs:
            gradient = (_SHARPNESS * gradient / gradient.abs().mean().clamp_min(TINY)).tanh()
        return gradient * (observed != 0) if self.only_sent else gradient


PLAIN = Wire()

_INEXACT: dict[type[Effect], str] = {
    SignsOnly: "sends signs alone",
    Rounded: "rounds what is sent",
    Sparsified: "sends a part of the entries",
}


def wire_of(observation: Observation) -> Wire:
    """Return the transformation of compared gradients. A mean over several clients no longer holds signs."""
    is_single = observation.threat.view == "single-update"
    return Wire(sends_part(observation), is_single and bool(observation.effects(SignsOnly)))


def sends_part(observation: Observation) -> bool:
    """Return whether a defense declares that it sends only a share of the entries; the others are unknown."""
    return bool(observation.effects(Sparsified))


def adds_noise(observation: Observation) -> bool:
    """Return whether a defense declares that it adds noise, of any scale."""
    return bool(observation.effects(Noise))


def noise_of(observation: Observation) -> AddedNoise | None:
    """Return the noise that a defense declares; None without a declared distribution and scale."""
    return next(iter(observation.effects(AddedNoise)), None)


def bound_of(observation: Observation) -> float | None:
    """Return the smallest norm to which a defense declares to clip whole gradients, or None."""
    return min((clipped.norm for clipped in observation.effects(Clipped)), default=None)


def inexact(observation: Observation) -> str | None:
    """Return why the update's equations do not hold exactly, as a clause without a full stop, or None.

    Exact attacks then still return an estimate, but must not call it exact.
    """
    for known in observation.known_methods:
        for effect in known.effects:
            for kind, deed in _INEXACT.items():
                if isinstance(effect, kind):
                    return f"the defense '{known.source}' {deed}"
    return "a defense adds noise" if adds_noise(observation) else None


def searched_sites(observation: Observation) -> tuple[DropoutSite, ...]:
    """Return the dropout sites with searched masks: all sites if the rates are known, else none."""
    return observation.sites if "dropout-rates" in observation.threat.knows else ()
