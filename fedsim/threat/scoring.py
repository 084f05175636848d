"""Scores of an attack's guess against the ground truth of an update, by the task's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Task
from fedsim.core.types import Batch, Dataset, Reconstruction
from fedsim.core.types.tasks import Scored
from fedsim.metrics.diagnosis import diagnosis
from fedsim.metrics.masks import identifiable, mask_accuracy, score_masks
from fedsim.metrics.success import Rule
from fedsim.record import ItemScore, MaskScore, VictimRecord
from fedsim.scenario import Scoring
from fedsim.threat.answers import check_count
from fedsim.threat.victim import Victim


class ScoredVictim(NamedTuple):
    """A scored guess.

    Attributes:
        record: record of the victim, without the attack's duration and the name of its arrays.
        arrays: images for the report by name: originals and guesses, as pixels in matched order (B, C, H, W), and the
            public image nearest to each guess, in 256 steps; empty for examples shown as text.
    """

    record: VictimRecord
    arrays: Mapping[str, np.ndarray]


def score(victim: Victim, reconstruction: Reconstruction) -> ScoredVictim:
    """Score an attack's guess of an update.

    Raises:
        FedsimError: the guess has more examples than the update.
    """
    entry = victim.entry
    check_count(len(reconstruction.inputs), sum(map(len, victim.truth.original_batches)), "examples")
    record = VictimRecord(
        round=entry.round,
        client=entry.client,
        clients=entry.clients,
        objective=reconstruction.objective,
        objective_at_truth=victim.objective_at_truth,
        iterations=reconstruction.iterations,
        best_iteration=reconstruction.best_iteration,
        stopped=reconstruction.stop_reason,
        history=reconstruction.history,
        notes=reconstruction.notes,
        diagnostics=dict(reconstruction.diagnostics),
    )
    world, data = victim.world, victim.world.data.dataset
    scored = world.task.score(victim.truth, victim.examples, reconstruction, data)
    items, arrays = _show_items(world.task, scored, reconstruction, victim.examples, data)
    masks = _mask_scores(victim, scored, reconstruction)
    right = mask_accuracy(masks)
    values = {**scored.values} if right is None else {**scored.values, "mask_accuracy": right}
    judged = {
        "scores": items,
        "values": values,
        "extras": _component_scores(victim, reconstruction),
        "notes": (*record.notes, *scored.notes),
        "masks": masks,
    }
    if scored.order is not None:
        judged["converged"] = _has_converged(victim, scored.guess or reconstruction, scored.order)
        judged["explanations"] = _diagnosis(
            world.scenario.scoring, scored.guess or reconstruction, items, values, record.objective_at_truth
        )
    return ScoredVictim(record.model_copy(update=judged), {**arrays, **scored.arrays})


def _has_converged(victim: Victim, guess: Reconstruction, order: Tensor) -> bool | None:
    """Return whether the guess explains the update as well as the ground truth does; None if it cannot be replayed."""
    masks = None if guess.masks is None else tuple(m[order] if len(m) == len(order) else m for m in guess.masks)
    in_order = replace(guess, inputs=guess.inputs[order], labels=guess.labels[order], masks=masks)
    try:
        return victim.has_converged(in_order)
    except (FedsimError, RuntimeError):  # masks of another number of examples
        return None


def _show_items(
    task: Task[Any], scored: Scored, reconstruction: Reconstruction, examples: Batch, data: Dataset
) -> tuple[tuple[ItemScore, ...], dict[str, np.ndarray]]:
    """Return the items with their texts, or the items and the images of originals and guesses, by name."""
    items = cast("tuple[ItemScore, ...]", scored.items)
    if scored.order is None:
        return items, {}
    guesses = task.show((scored.guess or reconstruction).inputs[scored.order], data)
    originals = task.show(examples.inputs, data)
    if isinstance(originals, np.ndarray) and isinstance(guesses, np.ndarray):
        return items, {"originals": originals, "guesses": guesses}
    rows = zip(items, originals, guesses, strict=True)
    return tuple(item.model_copy(update={"text": text, "guess": guess}) for item, text, guess in rows), {}


def _component_scores(victim: Victim, reconstruction: Reconstruction) -> dict[str, float]:
    scored = (part.scores(victim.model, victim.truth, reconstruction) for part in victim.world.stack.components)
    return {name: figure for scores in scored for name, figure in scores.items()}


def _diagnosis(
    scoring: Scoring,
    reconstruction: Reconstruction,
    scores: Sequence[ItemScore],
    values: Mapping[str, float],
    at_truth: float | None,
) -> tuple[str, ...]:
    rule = Rule.of(scoring.metric, scoring.threshold)
    if all(rule.has_succeeded(item) for item in scores):
        return ()
    return diagnosis(
        objective=reconstruction.objective,
        at_truth=at_truth,
        diagnostics=reconstruction.diagnostics,
        batch_size=len(scores),
        wrong_labels=round(len(scores) * (1.0 - values.get("label_accuracy", 1.0))),
    )


def _mask_scores(victim: Victim, scored: Scored, reconstruction: Reconstruction) -> tuple[MaskScore, ...]:
    """Score a single step's masks; of several steps the assignment of guesses to steps is unknown."""
    truth, sites, guess = victim.truth, victim.sites, scored.guess or reconstruction
    if scored.order is None or guess.masks is None or len(truth.masks) != 1:
        return ()
    batch, masks, loss = truth.batches[0], truth.masks[0], victim.world.stack.loss(victim.entry.round)
    draws = truth.draws[0] if truth.draws else {}
    relevant = identifiable(victim.model, batch, sites, masks, loss, victim.world.task.answer, draws)
    return score_masks(sites, guess.masks, masks, relevant, scored.order)
