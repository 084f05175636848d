"""What the descriptions of defenses tell an attacker who was granted them."""

from __future__ import annotations

from fedsim.types import DropoutSite, Observation


def sends_part(observation: Observation) -> bool:
    """Whether a defense says that only a share of the entries is sent (`kept_share`): the others are not known."""
    return any(float(known.facts.get("kept_share", 1.0)) < 1.0 for known in observation.public)


def adds_noise(observation: Observation) -> bool:
    """Whether a defense says that it adds noise (`noise_scale`, or what a private one follows from)."""
    stated = ("noise_scale", "noise_multiplier", "target_epsilon")
    return any(float(known.facts.get(fact, 0.0)) > 0.0 for known in observation.public for fact in stated)


def searched_sites(observation: Observation) -> tuple[DropoutSite, ...]:
    """Return where an informed attacker searches dropout masks: nowhere, unless the rates are known."""
    return observation.sites if "dropout-rates" in observation.threat.knows else ()
