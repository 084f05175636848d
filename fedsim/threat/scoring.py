"""What an attack made of one update beside the truth, scored as the examples ask for: images, or sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.core.examples import distinct
from fedsim.core.masks import dropout_sites
from fedsim.core.types import Dataset, Reconstruction, Truth, WireEntry
from fedsim.metrics.composites import with_composites
from fedsim.metrics.diagnosis import diagnosis
from fedsim.metrics.image import nearest, score_items, to_pixels
from fedsim.metrics.labels import label_accuracy
from fedsim.metrics.masks import identifiable, score_masks
from fedsim.metrics.matching import objective_at_truth
from fedsim.metrics.missing import completed
from fedsim.metrics.statistics import succeeded
from fedsim.metrics.text import score_sentences, score_words
from fedsim.record import ItemScore, MaskScore, VictimRecord
from fedsim.scenario import Scoring
from fedsim.scenario.world import World

_MOST_PUBLIC = 2000


class Scored(NamedTuple):
    """A scored guess.

    Attributes:
        victim: its record, not yet with the time that it took and the place of its arrays.
        arrays: by name what is kept of images: originals and guesses, as pixels in matched order (B, C, H, W), and the
            public image next to each guess, in 256 steps; empty for text.
    """

    victim: VictimRecord
    arrays: Mapping[str, np.ndarray]


def scored(world: World, entry: WireEntry, truth: Truth, found: Reconstruction) -> Scored:
    """Score what an attack made of one update.

    Args:
        world: in which the update was made.
        entry: the update, as the server saw it.
        truth: what led to it.
        found: the guess.
    """
    victim = VictimRecord(
        round=entry.round,
        client=entry.client,
        clients=entry.clients,
        objective=found.objective,
        objective_at_truth=objective_at_truth(
            world.models.holding(entry.received), entry.update, truth, world.stack.loss(entry.round)
        ),
        iterations=found.iterations,
        best_iteration=found.best_iteration,
        stopped=found.stopped,
        history=found.history,
        notes=found.notes,
        facts=dict(found.facts),
    )
    if world.data.dataset.spec.modality == "text":
        own = _with_sentences(victim, world, truth, found)
    else:
        own = _with_images(victim, world, entry, truth, found)
    read = {**own.victim.found, **_component_scores(world, entry, truth, found)}
    return own._replace(victim=own.victim.model_copy(update={"found": read}))


def _with_sentences(victim: VictimRecord, world: World, truth: Truth, found: Reconstruction) -> Scored:
    tokenizer, batch = world.data.dataset.tokenizer, distinct(truth.private)
    assert tokenizer is not None
    sentences = score_sentences(
        found, batch, tokenizer, [secret.span for secret in world.data.dataset.planted]
    ).sentences
    words = score_words(found, batch, tokenizer)
    return Scored(victim.model_copy(update={"sentences": sentences, "found": words}), {})


def _with_images(victim: VictimRecord, world: World, entry: WireEntry, truth: Truth, found: Reconstruction) -> Scored:
    batch, spec = distinct(truth.private), world.data.dataset.spec
    made, found = len(found.inputs), completed(found, len(batch))
    items = score_items(found, batch, spec)
    scores, order = with_composites(items, found, truth, spec), items.order
    guesses = to_pixels(found.inputs[order], spec)
    arrays = {"originals": to_pixels(batch.inputs, spec).numpy(), "guesses": guesses.numpy()}
    public = _public_images(world.data.dataset)
    if public is not None:
        arrays["public"] = _in_bytes(public[nearest(guesses, public)])
    judged = {
        "scores": scores,
        "notes": victim.notes if made >= len(batch) else (*victim.notes, _missing(made, len(batch))),
        "masks": _mask_scores(world, entry, truth, found, order),
        "why": _why(world.scenario.scoring, found, scores, victim.objective_at_truth),
    }
    return Scored(victim.model_copy(update=judged), arrays)


def _missing(made: int, count: int) -> str:
    return f"it guessed {made} of {count} examples; those without a guess count as missing, with the worst scores"


def _public_images(dataset: Dataset) -> Tensor | None:
    """Return pictures of the same kind that an attacker may own: the first of the test set, unless clients train on it.

    Returns:
        Pixels (N, C, H, W) in [0, 1], or None.
    """
    train, test = dataset.train.inputs, dataset.test.inputs[:_MOST_PUBLIC]
    if not len(test) or test.shape[1:] != train.shape[1:] or torch.equal(test, train[: len(test)]):
        return None
    return to_pixels(test, dataset.spec)


def _in_bytes(pixels: Tensor) -> np.ndarray:
    """Return pixels in 256 steps: for looking at, a quarter of the size."""
    return (255 * pixels).round().to(torch.uint8).numpy()


def _component_scores(world: World, entry: WireEntry, truth: Truth, found: Reconstruction) -> dict[str, float]:
    scored = (part.scores(world.models.holding(entry.received), truth, found) for part in world.stack.components)
    return {name: figure for scores in scored for name, figure in scores.items()}


def _why(
    scoring: Scoring, found: Reconstruction, scores: Sequence[ItemScore], at_truth: float | None
) -> tuple[str, ...]:
    if all(succeeded(item, scoring.metric, scoring.threshold) for item in scores):
        return ()
    right = label_accuracy((item.guessed_label for item in scores), (item.label for item in scores))
    return diagnosis(
        objective=found.objective,
        at_truth=at_truth,
        facts=found.facts,
        batch_size=len(scores),
        wrong_labels=round(len(scores) * (1.0 - right)),
    )


def _mask_scores(
    world: World, entry: WireEntry, truth: Truth, found: Reconstruction, order: Tensor
) -> tuple[MaskScore, ...]:
    """Score masks; not those of several steps, since nobody knows which guess belongs to which step."""
    if found.masks is None or truth.batches[1:]:
        return ()
    model, batch, masks = world.models.holding(entry.received), truth.batches[0], truth.masks[0]
    spec = world.data.dataset.spec
    sites = dropout_sites(model, spec.shape, len(batch), spec.dtype)
    relevant = identifiable(model, batch, sites, masks, world.stack.loss(entry.round))
    return score_masks(sites, found.masks, masks, relevant, order)
