"""What an attack made of one update beside the truth, scored as the task says."""

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
from fedsim.threat.victim import Victim


class Judged(NamedTuple):
    """A scored guess.

    Attributes:
        record: of the victim, not yet with the time that it took and the place of its arrays.
        arrays: by name what a report shows of pictures: originals and guesses, as pixels in matched order (B, C, H, W),
            and the public image next to each guess, in 256 steps; empty for what is shown as text.
    """

    record: VictimRecord
    arrays: Mapping[str, np.ndarray]


def score(victim: Victim, found: Reconstruction) -> Judged:
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
    world, data = victim.world, victim.world.data.dataset
    own = world.task.score(victim.truth, victim.examples, found, data)
    items, arrays = _shown(world.task, own, found, victim.examples, data)
    masks = _mask_scores(victim, own, found)
    right = mask_accuracy(masks)
    values = {**own.values} if right is None else {**own.values, "mask_accuracy": right}
    judged = {
        "scores": items,
        "values": values,
        "found": {**own.found, **_component_scores(victim, found)},
        "notes": (*record.notes, *own.notes),
        "masks": masks,
    }
    if own.order is not None:
        judged["converged"] = _has_converged(victim, own.guess or found, own.order)
        judged["why"] = _why(world.scenario.scoring, own.guess or found, items, values, record.objective_at_truth)
    return Judged(record.model_copy(update=judged), {**arrays, **own.arrays})


def _has_converged(victim: Victim, guess: Reconstruction, order: Tensor) -> bool | None:
    """Say whether the search ended where the truth is no better; None where the guess cannot be put into a step."""
    masks = None if guess.masks is None else tuple(m[order] if len(m) == len(order) else m for m in guess.masks)
    in_order = replace(guess, inputs=guess.inputs[order], labels=guess.labels[order], masks=masks)
    try:
        return victim.has_converged(in_order)
    except (FedsimError, RuntimeError):  # masks of another number of examples
        return None


def _shown(
    task: Task[Any], own: Scored, found: Reconstruction, examples: Batch, data: Dataset
) -> tuple[tuple[ItemScore, ...], dict[str, np.ndarray]]:
    """Return the items with the texts that show them, or else the pictures of originals and guesses, by name."""
    items = cast("tuple[ItemScore, ...]", own.items)
    if own.order is None:
        return items, {}
    guesses = task.show((own.guess or found).inputs[own.order], data)
    originals = task.show(examples.inputs, data)
    if isinstance(originals, np.ndarray) and isinstance(guesses, np.ndarray):
        return items, {"originals": originals, "guesses": guesses}
    rows = zip(items, originals, guesses, strict=True)
    return tuple(item.model_copy(update={"text": text, "guess": guess}) for item, text, guess in rows), {}


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
    if all(rule.has_succeeded(item) for item in scores):
        return ()
    return diagnosis(
        objective=found.objective,
        at_truth=at_truth,
        facts=found.facts,
        batch_size=len(scores),
        wrong_labels=round(len(scores) * (1.0 - values.get("label_accuracy", 1.0))),
    )


def _mask_scores(victim: Victim, own: Scored, found: Reconstruction) -> tuple[MaskScore, ...]:
    """Score masks; not those that nobody kept, nor those of several steps: which guess belongs to which is unknown."""
    truth, sites, guess = victim.truth, victim.sites, own.guess or found
    if own.order is None or guess.masks is None or len(truth.masks) != 1:
        return ()
    batch, masks, loss = truth.batches[0], truth.masks[0], victim.world.stack.loss(victim.entry.round)
    draws = truth.draws[0] if truth.draws else {}
    relevant = identifiable(victim.model, batch, sites, masks, loss, victim.world.task.answer, draws)
    return score_masks(sites, guess.masks, masks, relevant, own.order)
