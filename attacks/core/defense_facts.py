"""What the descriptions of defenses tell an attacker that was granted them.

Tensors that a defense makes unreliable are removed before an attack begins (`fedsim.core.informed`). This module reads
the other facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor

from attacks.core.tolerances import TINY
from fedsim.core.types import DropoutSite, Observation

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

    def target(self, observed: Tensor) -> Tensor:
        """Return an observed tensor in the form in which it is compared."""
        return observed.sign() if self.only_signs else observed

    def dummy(self, gradient: Tensor, observed: Tensor) -> Tensor:
        """Return a dummy's gradient in the same form: entries that were sent; for signs tanh(c g / mean |g|)."""
        if self.only_signs:
            gradient = (_SHARPNESS * gradient / gradient.abs().mean().clamp_min(TINY)).tanh()
        return gradient * (observed != 0) if self.only_sent else gradient


PLAIN = Wire()


class Noise(NamedTuple):
    """Independent noise of a known law.

    Attributes:
        scale: standard deviation, in units of the gradient or, if it `is_relative`, of each tensor's root mean square.
        share: share of the entries that get it; which ones is not known.
    """

    law: Literal["gaussian", "laplace"]
    scale: float
    is_relative: bool
    share: float = 1.0


def wire_of(observation: Observation) -> Wire:
    """Return the form in which gradients are compared. A mean over several clients no longer holds signs."""
    signs = any(known.facts.get("signs", False) for known in observation.public)
    return Wire(sends_part(observation), signs and observation.threat.sees == "single-update")


def sends_part(observation: Observation) -> bool:
    """Whether a defense says that it sends only a share of the entries (`kept_share`); the others are unknown."""
    return any(float(known.facts.get("kept_share", 1.0)) < 1.0 for known in observation.public)


def adds_noise(observation: Observation) -> bool:
    """Whether a defense says that it adds noise: by a scale, by what determines the scale, or by a law alone."""
    return any(_is_noisy(known.facts) for known in observation.public)


def _is_noisy(facts: Mapping[str, Any]) -> bool:
    stated = [float(facts[fact]) for fact in ("noise_scale", "noise_multiplier", "target_epsilon") if fact in facts]
    return any(figure > 0.0 for figure in stated) if stated else "noise_law" in facts


def noise_of(observation: Observation) -> Noise | None:
    """Return the noise that a defense says it adds, or None when none gives its law and its scale."""
    for known in observation.public:
        facts = known.facts
        scale, law = float(facts.get("noise_scale", 0.0)), facts.get("noise_law")
        if scale > 0.0 and law in ("gaussian", "laplace"):
            is_relative, share = bool(facts.get("noise_is_relative", False)), float(facts.get("noised_share", 1.0))
            return Noise(cast("Literal['gaussian', 'laplace']", law), scale, is_relative, share)
    return None


def bound_of(observation: Observation) -> float | None:
    """Return the norm to which a defense says that it clips gradients (`norm`), or None."""
    bounds = [float(known.facts["norm"]) for known in observation.public if "norm" in known.facts]
    return min(bounds, default=None)


def inexact(observation: Observation) -> str | None:
    """Return why the update's equations do not hold exactly, as a clause without a full stop, or None.

    Exact attacks then still give an estimate, but must not call it exact.
    """
    for known in observation.public:
        facts = known.facts
        if facts.get("signs", False):
            return f"the defense '{known.source}' sends signs alone"
        if facts.get("rounded", False):
            return f"the defense '{known.source}' rounds what is sent"
        if float(facts.get("kept_share", 1.0)) < 1.0:
            return f"the defense '{known.source}' sends a part of the entries"
    return "a defense adds noise" if adds_noise(observation) else None


def searched_sites(observation: Observation) -> tuple[DropoutSite, ...]:
    """Return the dropout sites whose masks an informed attacker searches: none, unless the rates are known."""
    return observation.sites if "dropout-rates" in observation.threat.knows else ()
