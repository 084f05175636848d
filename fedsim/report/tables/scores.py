"""The rows of `scores.csv`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedsim.metrics.statistics import succeeded
from fedsim.record import ArmRecord, AttackRecord, RunRecord, VictimRecord
from fedsim.report.verdict import Judge

SCORE_COLUMNS = (
    "arm",
    "attack",
    "round",
    "client",
    "image",
    "label",
    "guessed_label",
    "mse",
    "mse_normalised",
    "psnr_db",
    "ssim",
    "token_accuracy",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "secret_read",
    "success",
    "objective",
    "objective_at_truth",
    "iterations",
    "stopped",
    "seconds",
    "failure",
)


def scores(record: RunRecord, judge: Judge) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `scores.csv`: one an arm, attack, victim and image; one without scores where it failed."""
    for arm in record.arms:
        for attack in arm.attacks:
            for victim in attack.victims:
                yield from _score_rows(arm, attack, victim, judge)


def _score_rows(arm: ArmRecord, attack: AttackRecord, victim: VictimRecord, judge: Judge) -> Iterator[tuple[Any, ...]]:
    start = (arm.name, attack.label, victim.round, "+".join(map(str, victim.clients)) or victim.client)
    end = (
        victim.objective,
        victim.objective_at_truth,
        victim.iterations,
        victim.stopped,
        victim.seconds,
        victim.failure,
    )
    if victim.failure is not None or not victim.examples:
        yield (*start, *(None,) * 12, False, *end)
        return
    for sentence in victim.sentences:
        rouge = (sentence.rouge_1, sentence.rouge_2, sentence.rouge_l)
        yield (
            *start,
            sentence.index,
            *(None,) * 6,
            sentence.token_accuracy,
            *rouge,
            sentence.secret_is_read,
            sentence.exact,
            *end,
        )
    for item in victim.scores:
        is_success = succeeded(item, judge.scoring.metric, judge.scoring.threshold)
        scored = (item.index, item.label, item.guessed_label, item.mse, item.mse_normalised, item.psnr, item.ssim)
        yield (*start, *scored, *(None,) * 5, is_success, *end)
