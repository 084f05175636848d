"""noise-recovery: compute the noise of a weak generator, subtract it, and attack the clean update.

Idea: torch's CPU generator is linear over GF(2), and its noise shows leading bits of its outputs: equations in the
    19,937 bits of its state, which repeats all noise. Small and usual seeds are tried first.
Equation: u1 = exp(-(z1^2 + z2^2) / 2), u2 = atan2(z2, z1) / (2 pi), z = sent / sigma: each certain bit of u1 and u2 is
    one row of A s = b over GF(2), s the state. Bits are used in the order of the error of z that they bear.
Assumes: honest-but-curious server; one step; a private defense that is known with its noise and its generator; all
    tensors are seen. It knows nothing of the data, and no seed of the run.
Recovers: what `attack` recovers of the update without noise; of the noisy update where the noise stays unknown; of
    the partly noisy update where the noise of some tensors stays unknown.
Fails: against a cryptographic generator, noise that several parties or steps add up, and fewer than 1,700 coordinates.
Source: this project; generators: Matsumoto and Nishimura 1998; related: Mironov 2012, Holohan and Braghin 2021.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field

from attacks.core.inner_attack import inner_attack
from attacks.core.preconditions import one_gradient_only
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Knowledge, MethodDescription, Observation, OnStep, Reconstruction
from fedsim.core.types.effects import Noise, PrivateNoise
from fedsim.privacy.noise_recovery.recovery import subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise
from fedsim.privacy.noise_recovery.seed_guessing import SMALL_SEEDS

_EXPLAINED = 0.01  # largest objective; the noise left after subtraction, a share of 1e-6, keeps it above 0


class NoiseRecoveryConfig(Config):
    """Settings of noise recovery."""

    attack: str = Field(default="auto", description="the attack on the update without noise")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that attack")
    most_seeds: int = Field(default=SMALL_SEEDS, ge=0, description="seeds from 0 that are tried first")
    seconds: float = Field(default=120.0, gt=0, description="after which no further attempt to find the state begins")


@final
@attack(
    "noise-recovery", summary="computes the noise of a weak generator and attacks the update without it", tier="core"
)
class NoiseRecovery(Attack[NoiseRecoveryConfig]):
    """Removes noise, then runs another attack."""

    effort: ClassVar[Effort] = "algebra"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses"})
    example: ClassVar[Tables] = {
        "model": {"width": 8},
        "defenses": [{"name": "local-dp", "noise_multiplier": 1.0, "generator": "torch"}],
        "threat": {"knows": ["batch-size", "defenses"]},
        "attacks": [{"attack": "closed-form-linear", "most_seeds": 0}],
    }

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect an elimination of 20,000 bits, then the attack on the clean update."""
        return CostEstimate(1.0, 0.9, "the generator's state follows from its noise; other attacks need a clean update")

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates without noise of a stated generator, of several steps or with hidden tensors."""
        if not _generators(observation):
            return "no defense is known that adds private noise from a stated generator: set its `generator`"
        if observation.hidden_parameters:
            return "tensors are hidden, so the order of the draws is unknown"
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Remove the noise, then attack."""
        inner = inner_attack("noise-recovery", self.config.attack, self.config.options)
        if isinstance(inner, NoiseRecovery):
            raise NotApplicable("'attack' names this attack itself: set it to another attack")
        outcome, cleaned = self._clean(observation)
        guess = inner(cleaned, generator, on_step)
        notes = (str(outcome), f"attacked by {inner.name}", *guess.notes)
        # The noise is proven by spare equations, so a guess that explains the clean update needs no other attack. A
        # noisy tensor gives no such proof: noise hides whether a guess explains it.
        is_explained = _is_clean(outcome) and guess.objective < _EXPLAINED
        return replace(
            guess,
            notes=notes,
            diagnostics={**guess.diagnostics, **_diagnostics(outcome)},
            has_exact_inputs=guess.has_exact_inputs or is_explained,
        )

    def _clean(self, observation: Observation) -> tuple[ComputedNoise | UnknownNoise, Observation]:
        """Return how the noise was found, and the observation without the noise that was."""
        outcome, tensors = subtract_noise(
            observation.update.tensors,
            self.config.most_seeds,
            self.config.seconds,
            deviation=_stated_deviation(observation),
        )
        update = replace(observation.update, tensors=tensors)
        return outcome, replace(
            observation, update=update, known_methods=_describe_remaining_noise(observation, _is_clean(outcome))
        )


def _is_clean(outcome: ComputedNoise | UnknownNoise) -> bool:
    return isinstance(outcome, ComputedNoise) and outcome.is_complete


def _diagnostics(outcome: ComputedNoise | UnknownNoise) -> dict[str, float]:
    if isinstance(outcome, UnknownNoise):
        return {}
    return {
        "equations": float(outcome.equations),
        "rank": float(outcome.rank),
        "disagreement": outcome.disagreement,
        "cleaned_fraction": outcome.fraction,
    }


def _generators(observation: Observation) -> set[str]:
    return {noise.generator for noise in observation.effects(PrivateNoise)} - {"unpredictable"}


def _stated_deviation(observation: Observation) -> float | None:
    """Return the standard deviation that the only defense with private noise states for all entries, or None."""
    private = observation.effects(PrivateNoise)
    return private[0].deviation if len(private) == 1 else None


def _describe_remaining_noise(observation: Observation, is_clean: bool) -> tuple[MethodDescription, ...]:
    """Return what is known of the defenses, without noise that was computed, or with noise that stays."""
    remaining = _without_noise if is_clean else _with_unpredictable_noise
    return tuple(remaining(known) for known in observation.known_methods)


def _without_noise(known: MethodDescription) -> MethodDescription:
    """Return a description without noise if the noise is private: other noise was not computed."""
    if not any(isinstance(effect, PrivateNoise) for effect in known.effects):
        return known
    return replace(known, effects=tuple(effect for effect in known.effects if not isinstance(effect, Noise)))


def _with_unpredictable_noise(known: MethodDescription) -> MethodDescription:
    effects = tuple(
        replace(effect, generator="unpredictable") if isinstance(effect, PrivateNoise) else effect
        for effect in known.effects
    )
    return replace(known, effects=effects)
