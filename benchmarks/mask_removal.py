"""What opening groups of blocks gains a tagger: a task that needs the next word, and one that does not.

300 made-up sentences train a tiny Llama of three blocks, ten passes (about four minutes on a busy machine); test
accuracy of tokens for each of the 8 configurations of three groups, bit 1 the lowest. A tagger that sees no next word
can do no better on the first task than the more frequent tag. One more row opens all blocks of a causally trained
model at the test.
With --full, the trained model of 135 million parameters (30 blocks, groups of 10), LoRA of rank 8 and the head, two
passes, one seed: about twenty minutes of one idle core.
Paper: Dukic, Snajder 2024, arXiv 2401.14556; its tasks are entities, chunks and triggers.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402

from benchmarks._rows import Row, half_width, main, measured  # noqa: E402
from fedsim.components.adapter.causal_mask_removal import configurations  # noqa: E402
from fedsim.core import losses  # noqa: E402
from fedsim.core.types import Tensors  # noqa: E402
from fedsim.federation.apps import evaluate_model  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.scenario import parse, world  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402

_GROUPS = 3
_NEEDED_GAIN, _NO_GAIN = 0.05, 0.02  # of accuracy


class Plan(NamedTuple):
    """What is trained, how long, and how often.

    Attributes:
        model: the table of a scenario.
        tokenizer: of the data.
        adapters: further components.
        learning_rate: of Adam.
        passes: over the training sentences.
        seeds: of data, weights and order.
    """

    model: dict[str, Any]
    tokenizer: str
    adapters: tuple[dict[str, Any], ...]
    learning_rate: float
    passes: int
    seeds: Sequence[int]


SMALL = Plan({"name": "tiny-llama", "width": 64, "blocks": 3}, "words", (), 2e-3, 10, range(3))
LARGE = Plan(
    {"name": "smollm2-135m"},
    "smollm2-135m",
    ({"name": "lora", "targets": ["*.q_proj", "*.v_proj"], "rank": 8, "also_train": ["*lm_head.*"]},),
    1e-3,
    2,
    range(1),
)


def tagger(plan: Plan, task: str, chosen: str, seed: int) -> World:
    """Return the world of one client who owns all training sentences."""
    raw: dict[str, Any] = {
        "title": "causal-mask removal",
        "seed": seed,
        "data": {
            "name": "digit-tags", "decided_by": task, "seed": seed, "tokenizer": plan.tokenizer, "sentences": 400,
            "test_fraction": 0.25, "length": 12 if plan.tokenizer == "words" else 16,
        },
        "model": plan.model,
        "components": [*plan.adapters, {"name": "causal-mask-removal", "open": chosen}],
        "federation": {
            "algorithm": "fedavg",
            "clients": 1,
            "batch_size": 16,
            "local_epochs": plan.passes,
            "optimizer": {"name": "adam", "learning_rate": plan.learning_rate},
        },
    }  # fmt: skip
    return world.build(parse(raw, "benchmark"))


def trained(task_world: World) -> Tensors:
    """Return the weights after the client's training."""
    update, _ = local_training(task_world, task_world.models.first_weights, 1, 0)
    return {
        name: first - update.tensors.get(name, torch.zeros(()))
        for name, first in task_world.models.first_weights.items()
    }


def accuracy(task_world: World, weights: Tensors) -> float:
    """Return the share of the test set's tokens that are tagged rightly."""
    share = evaluate_model(task_world, weights)["test_accuracy"]
    assert share is not None
    return share


def majority(task_world: World) -> float:
    """Return the share of the more frequent tag among the test set's."""
    labels = task_world.data.dataset.test.labels
    share = float((labels[labels != losses.IGNORED] == 0).double().mean())
    return max(share, 1.0 - share)


def measure(full: bool) -> list[Row]:
    """Return the rows of both tasks."""
    plan = LARGE if full else SMALL
    return [*_task(plan, "next-word"), *_task(plan, "this-word")]


def _task(plan: Plan, task: str) -> list[Row]:
    accuracies: dict[str, list[float]] = {chosen: [] for chosen in configurations(_GROUPS)}
    frequent: list[float] = []
    opened_late: list[float] = []
    for seed in plan.seeds:
        for chosen, of_choice in accuracies.items():
            tagger_world = tagger(plan, task, chosen, seed)
            weights = trained(tagger_world)
            of_choice.append(accuracy(tagger_world, weights))
            print(f"{task}, seed {seed}, open {chosen}: {of_choice[-1]:.3f}", file=sys.stderr, flush=True)
            if "1" not in chosen:
                frequent.append(majority(tagger_world))
                opened_late.append(accuracy(tagger(plan, task, "1" * _GROUPS, seed), weights))
    rows = [_row("share of the more frequent tag", task, frequent, "")]
    closed = accuracies["0" * _GROUPS]
    for chosen, of_choice in accuracies.items():
        must = ""
        if task == "next-word" and "1" in chosen:
            must = f">= {_mean(frequent) + _NEEDED_GAIN:.4f}"
        elif task == "next-word":
            must = f"<= {_mean(frequent) + _NO_GAIN:.4f}"
        elif "1" in chosen:
            must = f"<= {_mean(closed) + _NO_GAIN:.4f}"
        rows.append(_row(f"open {chosen}", task, of_choice, must))
    return [*rows, _row("trained with 000, tested with 111", task, opened_late, "")]


def _row(name: str, task: str, accuracies: list[float], must: str) -> Row:
    return measured(name, f"{task}{_interval(accuracies)}", accuracies, "accuracy", must, _mean(accuracies))


def _interval(values: Sequence[float]) -> str:
    """Return Student's 95 % interval of the mean over seeds, cut to [0, 1], in words; nothing for a single seed."""
    n, mean = len(values), _mean(values)
    if n == 1:
        return ""
    half = half_width(values)
    return f", 95 % [{max(0.0, mean - half):.3f}, {min(1.0, mean + half):.3f}]"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main(measure, __doc__ or "")
