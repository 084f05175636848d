"""What an attack made of one update beside the truth, scored as the examples ask for: images, or sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.core.types import Dataset, Reconstruction
from fedsim.metrics.composites import with_composites
from fedsim.metrics.diagnosis import diagnosis
from fedsim.metrics.image import nearest, score_items, to_pixels
from fedsim.metrics.labels import label_accuracy
from fedsim.metrics.masks import identifiable, mask_accuracy, score_masks
from fedsim.metrics.missing import completed
from fedsim.metrics.success import Rule
from fedsim.metrics.text import score_sentences, score_words
from fedsim.record import ItemScore, MaskScore, VictimRecord
from fedsim.scenario import Scoring
from fedsim.threat.victim import Victim

_MOST_PUBLIC = 2000


class Scored(NamedTuple):
    """A scored guess.

    Attributes:
        record: of the victim, not yet with the time that it took and the place of its arrays.
        arrays: by name what is kept of images: originals and guesses, as pixels in matched order (B, C, H, W), and the
            public image next to each guess, in 256 steps; empty for text.
    """

    record: VictimRecord
    arrays: Mapping[str, np.ndarray]


def scored(victim: Victim, found: Reconstruction) -> Scored:
    """Score what an attack made of one update."""
    entry = victim.entry
    record = VictimRecord(
        round=entry.round,
        client=entry.client,
        clients=entry.clients,
        objective=found.objective,
        objective_at_truth=victim.objective_at_truth,
        iterations=found.iterations,
        best_iteration=found.best_iteration,
        stopped=found.stopped,
        history=found.history,
        notes=found.notes,
        facts=dict(found.facts),
    )
    is_text = victim.world.task.modality == "text"
    own = _with_sentences(record, victim, found) if is_text else _with_images(record, victim, found)
    read = {**own.record.found, **_component_scores(victim, found)}
    return own._replace(record=own.record.model_copy(update={"found": read}))


def _with_sentences(record: VictimRecord, victim: Victim, found: Reconstruction) -> Scored:
    dataset, batch = victim.world.data.dataset, victim.examples
    tokenizer = dataset.tokenizer
    assert tokenizer is not None
    sentences = score_sentences(found, batch, tokenizer, [secret.span for secret in dataset.planted]).sentences
    words = score_words(found, batch, tokenizer)
    return Scored(record.model_copy(update={"scores": sentences, "found": words}), {})


def _with_images(record: VictimRecord, victim: Victim, found: Reconstruction) -> Scored:
    dataset, batch = victim.world.data.dataset, victim.examples
    spec = dataset.spec
    made, found = len(found.inputs), completed(found, len(batch))
    items = score_items(found, batch, spec)
    scores, order = with_composites(items, found, victim.truth, batch, spec), items.order
    guesses = to_pixels(found.inputs[order], spec)
    arrays = {"originals": to_pixels(batch.inputs, spec).numpy(), "guesses": guesses.numpy()}
    public = _public_images(dataset)
    if public is not None:
        arrays["public"] = _in_bytes(public[nearest(guesses, public)])
    masks = _mask_scores(victim, found, order)
    values = update_values(scores, masks)
    judged = {
        "scores": scores,
        "values": values,
        "notes": record.notes if made >= len(batch) else (*record.notes, _missing(made, len(batch))),
        "masks": masks,
        "why": _why(victim.world.scenario.scoring, found, scores, values, record.objective_at_truth),
    }
    return Scored(record.model_copy(update=judged), arrays)


def update_values(items: Sequence[ItemScore], masks: Sequence[MaskScore] = ()) -> dict[str, float]:
    """Return the metrics of an update of labelled examples as a whole."""
    labels = label_accuracy((item.guessed_label for item in items), (item.label for item in items))
    right = mask_accuracy(masks)
    return {"label_accuracy": labels} if right is None else {"label_accuracy": labels, "mask_accuracy": right}


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


def _component_scores(victim: Victim, found: Reconstruction) -> dict[str, float]:
    scored = (part.scores(victim.model, victim.truth, found) for part in victim.world.stack.components)
    return {name: figure for scores in scored for name, figure in scores.items()}


def _why(
    scoring: Scoring,
    found: Reconstruction,
    scores: Sequence[ItemScore],
    values: Mapping[str, float],
    at_truth: float | None,
) -> tuple[str, ...]:
    rule = Rule.of(scoring.metric, scoring.threshold)
    if all(rule.succeeded(item) for item in scores):
        return ()
    return diagnosis(
        objective=found.objective,
        at_truth=at_truth,
        facts=found.facts,
        batch_size=len(scores),
        wrong_labels=round(len(scores) * (1.0 - values["label_accuracy"])),
    )


def _mask_scores(victim: Victim, found: Reconstruction, order: Tensor) -> tuple[MaskScore, ...]:
    """Score masks; not those of several steps, since nobody knows which guess belongs to which step."""
    truth, sites = victim.truth, victim.sites
    if found.masks is None or truth.batches[1:]:
        return ()
    batch, masks, loss = truth.batches[0], truth.masks[0], victim.world.stack.loss(victim.entry.round)
    relevant = identifiable(victim.model, batch, sites, masks, loss)
    return score_masks(sites, found.masks, masks, relevant, order)
