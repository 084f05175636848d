"""Undo known defenses on the batch that an attack recovered, which is the batch after the defenses.

Transforms: for every known policy T, find the x for which T(x) is the recovered batch. The policy whose T(x) explains
the gradient best wins. Mixtures: see `attacks.mixed_batches._unmixing`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from attacks.core.gradient_distance import gradient_distance
from attacks.core.labels import labels_of
from attacks.core.matching.optimizers import Cosine, RowAdam
from attacks.core.matching.priors.total_variation import total_variation
from attacks.core.pixels import pixel_box
from attacks.core.tolerances import MATCHES
from attacks.mixed_batches._unmixing import Encodings, UnmixedImages, mixed_labels, regress_together, unmix_pairs
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Attack
from fedsim.core.types import Masks, Observation, Reconstruction
from fedsim.core.types.effects import MixedExamples, PastedImages, PastedMaps, Transformed

CONVINCING = 1e-3
_ITERATIONS = 200
_STEP = 0.05
_SMOOTHNESS = 1e-4
_PAIR = 2
Transform = Callable[[Tensor], Tensor]


def changes_batch(observation: Observation) -> bool:
    """Return whether a known defense or component changed the batch before training."""
    return bool(transforms_of(observation)) or mixes(observation) or pastes(observation) or pastes_maps(observation)


def mixes(observation: Observation) -> bool:
    """Return whether a known defense mixed examples of the batch."""
    return bool(observation.effects(MixedExamples))


def pastes(observation: Observation) -> bool:
    """Return whether a known component pasted a part of an example into another."""
    return bool(observation.effects(PastedImages))


def pastes_maps(observation: Observation) -> bool:
    """Return whether a known component pasted a part of an example's feature maps into another's, after a layer."""
    return bool(observation.effects(PastedMaps))


def transforms_of(observation: Observation) -> tuple[Transform, ...]:
    """Return the known transforms of the inputs; the client used one of them."""
    return tuple(transform for effect in observation.effects(Transformed) for transform in effect.functions)


def explains_mixtures(observation: Observation, guess: Reconstruction) -> bool:
    """Return whether a guess is exactly the trained batch, if its labels may be mixed."""
    if not mixes(observation) or observation.local_steps > 1:
        return False
    mixed = mixed_labels(observation, guess)
    return mixed is not None and mixed.distance < MATCHES


def undone(observation: Observation, seen: Reconstruction, generator: torch.Generator) -> Reconstruction | None:
    """Return the batch before the known defenses changed it, or None if the change cannot be undone.

    Args:
        observation: a single gradient, with the description of the defenses.
        seen: an attack's guess of the batch after the change.
        generator: random source of a regression's starts.

    Returns:
        A guess. Its objective is 1 - cosine of the whole gradient at the guess after the defenses' change.
    """
    if observation.local_steps > 1:
        return None
    if transforms_of(observation):
        return _undo_best_policy(observation, seen)
    return _unmix(observation, seen, generator) if mixes(observation) else None


def _undo_best_policy(observation: Observation, seen: Reconstruction) -> Reconstruction | None:
    """Return the x of the policy that explains the gradient best; among equal policies the closest fit."""
    if len(seen.masks or ()) != len(observation.sites):
        return None
    tried: list[tuple[float, float, Tensor, Transform]] = []
    for transform in transforms_of(observation):
        inputs, misfit = _preimage(observation, seen.inputs, transform)
        distance = _distance_through(observation, transform, inputs, seen.labels, seen.masks or ())
        tried.append((distance, misfit, inputs, transform))
    least = min(distance for distance, *_ in tried)
    distance, _, inputs, transform = min(
        (attempt for attempt in tried if attempt[0] <= max(2.0 * least, MATCHES)), key=lambda attempt: attempt[1]
    )
    note = f"undone: the policy '{transform}', which explains the gradient best"
    return replace(seen, inputs=inputs, objective=distance, notes=(note, *seen.notes), is_exact=False)


def _preimage(observation: Observation, seen: Tensor, transform: Transform) -> tuple[Tensor, float]:
    """Return the x in the pixel range with the least mean of (T(x) - seen)^2 + a little TV(x), and this value."""
    low, high = (bound.to(seen) for bound in pixel_box(observation))
    inputs = seen.clone().clamp_(low, high).requires_grad_()
    best, least = inputs.detach().clone(), float("inf")
    adam, schedule = RowAdam([inputs]), Cosine(_ITERATIONS)
    for iteration in range(_ITERATIONS):
        misfit = (transform(inputs) - seen).square().mean() + _SMOOTHNESS * total_variation(inputs[None])[0]
        if float(misfit.detach()) < least:
            best, least = inputs.detach().clone(), float(misfit.detach())
        gradients = torch.autograd.grad(misfit, [inputs])
        adam.step([inputs], gradients, [_STEP * schedule.factors(iteration, inputs.new_zeros(len(inputs)))])
        with torch.no_grad():
            inputs.clamp_(low, high)
    return best, least


def _distance_through(
    observation: Observation, transform: Transform, inputs: Tensor, labels: Tensor, masks: Masks
) -> float:
    model = observation.working_copy()
    return gradient_distance(replace(observation, model=model), transform(inputs), labels, masks)


def _unmix(observation: Observation, seen: Reconstruction, generator: torch.Generator) -> Reconstruction | None:
    mixed = mixed_labels(observation, seen)
    if mixed is None or mixed.distance > CONVINCING:
        return None
    labels, flat = labels_of(observation), seen.inputs.flatten(1)
    images: UnmixedImages | None
    if not has_random_signs(observation):
        images = unmix_pairs(observation, flat, mixed.probabilities, labels) if _is_paired(observation) else None
    else:
        images = _solve_over_rounds(observation, Encodings(flat, mixed.probabilities, labels), generator)
    if images is None:
        return None
    note = f"undone: mixtures of the images with weights from the labels, misfit {images.residual:.1e}"
    inputs = images.inputs.view_as(seen.inputs).to(seen.inputs)
    return replace(
        seen, inputs=inputs, labels=labels.clone(), masks=None, objective=mixed.distance, notes=(note, *seen.notes),
        is_exact=False,
    )  # fmt: skip


def _solve_over_rounds(observation: Observation, encodings: Encodings, generator: torch.Generator) -> UnmixedImages:
    """Return the images of a batch, solved together with the same client's encodings of earlier rounds."""
    batches = [encodings]
    for before in observation.earlier_observations:
        guess = seen_exactly(before, generator)
        mixed = None if guess is None else mixed_labels(before, guess)
        if guess is not None and mixed is not None:
            batches.append(Encodings(guess.inputs.flatten(1), mixed.probabilities, labels_of(before)))
    return regress_together(observation, batches, generator)


def seen_exactly(observation: Observation, generator: torch.Generator) -> Reconstruction | None:
    """Return the first guess of an attack without descent that explains the gradient of mixtures, or None."""
    for effort in ("algebra", "search"):
        for method in registry.methods("attack", Attack).values():
            kind = cast("type[Attack[Any]]", method.make)
            if kind.effort != effort or kind.inverts_augmentation:
                continue
            attack = method.make(method.config())
            try:
                guess = attack(observation, generator) if attack.fits(observation).holds else None
            except FedsimError:
                continue
            if guess is not None and explains_mixtures(observation, guess):
                return guess
    return None


def _is_paired(observation: Observation) -> bool:
    return max((mixed.count for mixed in observation.effects(MixedExamples)), default=1) == _PAIR


def has_random_signs(observation: Observation) -> bool:
    """Return whether a known defense gave the entries of mixtures random signs."""
    return any(mixed.has_random_signs for mixed in observation.effects(MixedExamples))
