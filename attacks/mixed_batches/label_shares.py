"""Label shares: both labels of every composite that a client trained on, their weights, and the images behind them.

An exact attack on a batch of composites (CutMix, MixUp) returns the composites, and takes the larger label of each for
the whole of it, so its gradient does not match. But with inputs and masks known, the last layer's gradient gives each
example's dL/dz_i = (p_i - y_i) / B, and p_i follows from a forward pass: y_i = p_i - B dL/dz_i, exactly, both labels
and their weights (the rule of iDLG, arXiv 2001.02610, for labels that are shared). The pasted area follows from the
weight, and `_assembly` puts the original images together: with the box if the threat model grants the draws, else by
looking for it. CutMix: arXiv 1905.04899.

Threat model: honest-but-curious server, one exact gradient, who knows the components. Images of a batch with one box
each are put together only if the draws are granted. Fails where no exact attack applies.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.gradient_distance import may_be_exact, verdict
from attacks.core.labels import gradient_weight
from attacks.core.masks_by_layer import peeled
from attacks.core.progress import Numbered
from attacks.core.tolerances import MATCHES
from attacks.mixed_batches._cutmix_boxes import assembled, assembled_each
from fedsim.core import registry
from fedsim.core.boxes import Pasted
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, Effort
from fedsim.core.masks import injected_masks
from fedsim.core.registry import attack
from fedsim.core.types import Batch, Config, Knowledge, Masks, Observation, OnStep, Reconstruction, View

_NAME = "label-shares"
_IMAGE = 3


class LabelSharesConfig(Config):
    """There is nothing to set."""


@final
@attack(_NAME, summary="both labels and images of CutMix composites, from exact attacks", related="2001.02610")
class LabelShares(Attack[LabelSharesConfig]):
    """Exact attacks with labels that may be shared, and composites taken apart."""

    effort: ClassVar[Effort] = "search"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"components"})
    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse where no component mixes labels, and where no exact attack applies."""
        if not _mixes(observation):
            return "no component in use mixes inputs and their labels"
        if any(candidate.fits(observation).holds for candidate in _exact_attacks()):
            return None
        return "no exact attack applies"

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Try the exact attacks until the shares that follow from one explain the gradient."""
        found: list[Reconstruction] = []
        numbered = Numbered(on_step)
        for candidate in _exact_attacks():
            if not candidate.fits(observation).holds:
                continue
            try:
                found.append(_with_shares(observation, candidate.search(observation, generator, numbered)))
            except NotApplicable:
                continue
            if found[-1].is_exact:
                return _taken_apart(observation, found[-1])
        if not found:
            raise NotApplicable("no exact attack applies")
        return min(found, key=lambda guess: guess.objective)


def _mixes(observation: Observation) -> bool:
    words = ("pasted_examples", "mixed_examples")
    return any(known.facts.get(word, 1) > 1 for known in observation.public for word in words)


def _exact_attacks() -> Iterator[Attack[Any]]:
    """Yield attacks that solve equations, from cheap to expensive, but for this one and those that change the model."""
    for effort in ("algebra", "search"):
        for name, method in registry.methods("attack").items():
            kind = cast("type[Attack[Any]]", method.make)
            if name != _NAME and kind.effort == effort and not kind.crafts:
                yield method.make(method.config())


def _with_shares(observation: Observation, guess: Reconstruction) -> Reconstruction:
    """Return the guess with label shares and the objective that belongs to them; as it was where there are none."""
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
        trained=Batch(guess.inputs, shares.to(guess.inputs)),
        objective=objective,
        stopped="all composites and label shares found" if objective < MATCHES else guess.stopped,
        notes=(*guess.notes, f"with label shares, {meaning}"),
        facts={**guess.facts, "largest minor share": float(minor.max())},
        is_exact=objective < MATCHES and may_be_exact(observation, objective),
    )


@torch.no_grad()
def label_shares(observation: Observation, inputs: Tensor, masks: Masks) -> Tensor | None:
    """Return the share of every class in each label, shape (B, K) float64: y = p - B dL/dz.

    None where the gradient of the last layer is hidden or the model has no linear layer with one output a class.

    Args:
        observation: with an exact gradient.
        inputs: what the model saw, shape (B, *shape).
        masks: the dropout masks of that step, one a site.
    """
    deltas = peeled(observation, inputs).deltas
    if deltas is None:
        return None
    model = copy.deepcopy(observation.model).double().train()
    with injected_masks(observation.sites, tuple(mask.double() for mask in masks)):
        outputs = model(inputs.double())
    if outputs.shape != deltas.shape:
        return None
    each = len(inputs) / gradient_weight(observation) * deltas
    return F.normalize((outputs.softmax(1) - each).clamp_min(0.0), p=1.0, dim=1)


def _taken_apart(observation: Observation, guess: Reconstruction) -> Reconstruction:
    """Return the original images where the composites hold them, else the composites."""
    batch = guess.trained
    facts = [known.facts for known in observation.public if "pasted_examples" in known.facts]
    if batch is None or not facts or observation.local_steps > 1 or len(observation.spec.shape) != _IMAGE:
        return guess
    pasted = None if observation.draws is None else Pasted.written_in(observation.draws[0])
    if facts[0].get("per_sample", False):
        return guess if pasted is None else _with_own_boxes(guess, batch, pasted)
    box = None if pasted is None or pasted.boxes is None else pasted.boxes[0]
    found = assembled(batch.inputs, batch.labels, box)
    if found is None:
        return guess
    how = "the box was granted" if box is not None else "the box of that area that leaves the smoothest images"
    note = f"put together with rows {_span(found.boxes[0, :2])} and columns {_span(found.boxes[0, 2:])}: {how}"
    return replace(guess, inputs=found.images, labels=found.labels, notes=(*guess.notes, note))


def _span(edges: Tensor) -> str:
    return f"{int(edges[0])} to {int(edges[1])}"


def _with_own_boxes(guess: Reconstruction, batch: Batch, pasted: Pasted) -> Reconstruction:
    """Put images together whose composites have a box each."""
    if pasted.boxes is None or pasted.partners is None:
        return guess
    found = assembled_each(batch.inputs, batch.labels, pasted.partners, pasted.boxes, pasted.weights)
    note = "put together with the granted boxes; what no composite holds shows the partner"
    return replace(guess, inputs=found.images, labels=found.labels, notes=(*guess.notes, note))
