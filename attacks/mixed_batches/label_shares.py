"""label-shares: recover both labels of every composite and their weights, then assemble the original images.

If the whole batch has the same box, every pixel cut out of a composite is in another composite, whose second label is
the first composite's main label; so the originals can be reassembled. With a box per image, pixels that no composite
holds are lost; without `draws` the attack then returns the composites. On images of few pixels the smoothest box may be
wrong. `mixup-inversion` separates images of MixUp. `scenarios/50_cutmix.toml` is an example.

Idea: an exact attack on CutMix or MixUp composites recovers the composites, but gives each only its larger label, so
    the gradient does not match. With known inputs and masks, the last layer's gradient gives the mixed labels.
Equation: y_i = p_i - B dL/dz_i, with p_i the probabilities of a forward pass; the pasted area is (1 - l) H W.
Assumes: honest-but-curious server, an exact gradient, components granted; labels need not be known.
Recovers: labels and weights; originals of CutMix, with the granted box (`draws`) or the box of that area with the
    smoothest images. If every image has its own box, originals need the granted draws.
Fails: no exact attack applies (convolutions, noise, several steps); MixUp images stay mixed.
Source: the rule of iDLG, arXiv 2001.02610, for shared labels; CutMix: arXiv 1905.04899.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.gradient_distance import may_be_exact, verdict
from attacks.core.masks_by_layer import peel
from attacks.core.mean_gradient import gradient_weight
from attacks.core.outlooks import outlook_of
from attacks.core.progress import Numbered
from attacks.core.tolerances import MATCHES
from attacks.mixed_batches._cutmix_boxes import assemble, assemble_each
from attacks.mixed_batches._undo_defenses import mixes, pastes
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.nets.masks import inject_masks
from fedsim.core.registry import attack
from fedsim.core.types import Batch, Config, Knowledge, Masks, Observation, OnStep, Reconstruction, View
from fedsim.core.types.effects import PastedImages
from fedsim.metrics.boxes import CutMixRecord

_NAME = "label-shares"
_IMAGE = 3


@final
@attack(
    _NAME, summary="both labels and images of CutMix composites, from exact attacks", tier="core", related="2001.02610"
)
class LabelShares(Attack[Config]):
    """Runs exact attacks, solves for label shares, and separates composites."""

    effort: ClassVar[Effort] = "search"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"components"})
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25},
        "components": [{"name": "cutmix", "probability": 1.0}],
        "federation": {"batch_size": 2},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse if no component mixes labels, or no exact attack applies."""
        if not (mixes(observation) or pastes(observation)):
            return "no component in use mixes inputs and their labels"
        if any(candidate.fits(observation).holds for candidate in _exact_attacks()):
            return None
        return "no exact attack applies"

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect all exact attacks, and solutions for labels."""
        return outlook_of(observation, 500.0, 0.6, "an exact attack recovers the composites")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Run exact attacks until the label shares of a result explain the gradient."""
        reconstructions: list[Reconstruction] = []
        numbered = Numbered(on_step)
        for candidate in _exact_attacks():
            if not candidate.fits(observation).holds:
                continue
            try:
                reconstructions.append(_with_shares(observation, candidate.search(observation, generator, numbered)))
            except NotApplicable:
                continue
            if reconstructions[-1].is_exact:
                return _take_apart(observation, reconstructions[-1])
        if not reconstructions:
            raise NotApplicable("no exact attack applies")
        return min(reconstructions, key=lambda guess: guess.objective)


def _exact_attacks() -> Iterator[Attack[Any]]:
    """Yield attacks that solve equations for the trained batch, from cheap to expensive, without this attack.

    Attacks that undo a mixture run an exact attack themselves, which could be this attack.
    """
    for effort in ("algebra", "search"):
        for name, method in registry.methods("attack", Attack).items():
            kind = cast("type[Attack[Any]]", method.make)
            if name != _NAME and kind.effort == effort and not (kind.crafts_model or kind.inverts_augmentation):
                yield method.make(method.config())


def _with_shares(observation: Observation, guess: Reconstruction) -> Reconstruction:
    """Return the guess with label shares and their objective; unchanged without shares."""
    masks = guess.masks if observation.sites else ()
    if masks is None or len(guess.inputs) < (observation.batch_size or 1):
        return guess
    shares = label_shares(observation, guess.inputs, masks)
    if shares is None:
        return guess
    objective, meaning = verdict(observation, guess.inputs, shares.to(guess.inputs), masks, (guess.objective, ""))
    minor = shares.topk(2).values[:, 1]
    return replace(
        guess,
        labels=shares.argmax(1),
        trained_batch=Batch(guess.inputs, shares.to(guess.inputs)),
        objective=objective,
        stop_reason="all composites and label shares found" if objective < MATCHES else guess.stop_reason,
        notes=(*guess.notes, f"with label shares, {meaning}"),
        diagnostics={**guess.diagnostics, "largest minor share": float(minor.max())},
        is_exact=objective < MATCHES and may_be_exact(observation, objective),
    )


@torch.no_grad()
def label_shares(observation: Observation, inputs: Tensor, masks: Masks) -> Tensor | None:
    """Return the share of every class in each label, shape (B, K) float64: y = p - B dL/dz.

    None if the gradient of the last layer is hidden or the model has no linear layer with one output per class.

    Args:
        observation: with an exact gradient.
        inputs: the inputs of the model, shape (B, *shape).
        masks: the dropout masks of that step, one per site.
    """
    deltas = peel(observation, inputs).deltas
    if deltas is None:
        return None
    model = observation.working_copy("train", torch.float64)
    with inject_masks(observation.sites, tuple(mask.double() for mask in masks)):
        outputs = model(inputs.double())
    if outputs.shape != deltas.shape:
        return None
    shares = len(inputs) / gradient_weight(observation) * deltas
    return F.normalize((outputs.softmax(1) - shares).clamp_min(0.0), p=1.0, dim=1)


def _take_apart(observation: Observation, guess: Reconstruction) -> Reconstruction:
    """Return the original images if the composites hold them, else the composites."""
    batch = guess.trained_batch
    pasting = observation.effects(PastedImages)
    if batch is None or not pasting or observation.local_steps > 1 or len(observation.spec.shape) != _IMAGE:
        return guess
    pasted = None if observation.draws is None else CutMixRecord.written_in(observation.draws[0])
    if pasting[0].per_sample:
        return guess if pasted is None else _with_own_boxes(guess, batch, pasted)
    box = None if pasted is None or pasted.boxes is None else pasted.boxes[0]
    assembled = assemble(batch.inputs, batch.labels, box)
    if assembled is None:
        return guess
    source = "the box was granted" if box is not None else "the box of that area that leaves the smoothest images"
    note = (
        f"put together with rows {_span(assembled.boxes[0, :2])} and columns {_span(assembled.boxes[0, 2:])}: {source}"
    )
    return replace(guess, inputs=assembled.images, labels=assembled.labels, notes=(*guess.notes, note))


def _span(edges: Tensor) -> str:
    return f"{int(edges[0])} to {int(edges[1])}"


def _with_own_boxes(guess: Reconstruction, batch: Batch, pasted: CutMixRecord) -> Reconstruction:
    if pasted.boxes is None or pasted.partners is None:
        return guess
    assembled = assemble_each(batch.inputs, batch.labels, pasted.partners, pasted.boxes, pasted.weights)
    note = "put together with the granted boxes; the pixels that no composite holds show the partner"
    return replace(guess, inputs=assembled.images, labels=assembled.labels, notes=(*guess.notes, note))
