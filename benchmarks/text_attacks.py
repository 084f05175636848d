"""Attacks on a text: what each reads from one gradient of a tiny Llama, through dropout and through noise.

Sentences of real news of up to 16 tokens; a victim is a client's first gradient at fresh weights, on one sentence (with
`--full` on batches of four too). The same victims, dropout masks and noise for every attack. `ignored` is an attacker
who leaves dropout out. Figures are means over victims; least and greatest are the ends of their 95 % interval, by
bootstrap over victims. They are tokens right at their place, ROUGE-1, ROUGE-2 and ROUGE-L of words, exact sentences,
and recall and precision of the set of tokens. An attack that does not apply counts as 0.
"""

from __future__ import annotations

from fedsim import process

process.prepare()

import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks._rows import Row, main  # noqa: E402
from fedsim import registry, seeding  # noqa: E402
from fedsim.client import local_training  # noqa: E402
from fedsim.errors import NotApplicable  # noqa: E402
from fedsim.metrics.text import rouge_n, score_sentences, score_words  # noqa: E402
from fedsim.observe import observe  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.types import Knowledge, Observation, Truth, WireEntry  # noqa: E402
from fedsim.world import World, shared  # noqa: E402

_KNOWN: tuple[Knowledge, ...] = ("batch-size", "dropout-rates")
_RESAMPLES = 2000
_FIGURES = ("tokens right", "ROUGE-1", "ROUGE-2", "ROUGE-L", "exact sentences", "words found", "found words right")
ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "word-readout": {},
    "tag": {"iterations": 400},
    "lamp": {"iterations": 200, "drafts": 40, "every": 40, "candidates": 30, "finishing": 5},
    "subspace-distance": {},
    "sentence-atoms": {},
}
SEARCHES = ("tag", "lamp")


class Condition(NamedTuple):
    """What a client does, and what the attacker knows of it."""

    name: str
    dropout: float = 0.0
    noise: float = 0.0
    knows: tuple[Knowledge, ...] = _KNOWN
    ignores_masks: bool = False


CONDITIONS = (
    Condition("plain"),
    Condition("dropout 0.1, masks known", 0.1, knows=(*_KNOWN, "masks")),
    Condition("dropout 0.1, masks unknown", 0.1),
    Condition("dropout 0.1, ignored", 0.1, ignores_masks=True),
    Condition("noise 1e-3", noise=1e-3),
)


def measure(full: bool) -> list[Row]:
    """Return the rows, attack by attack."""
    sizes, victims = ((1, 4), 8) if full else ((1,), 4)
    rows: list[Row] = []
    for size in sizes:
        for condition in CONDITIONS:
            seen = list(observed(condition, victims, size))
            for name, settings in ATTACKS.items():
                if condition.ignores_masks and name not in SEARCHES:
                    continue
                begin = time.perf_counter()
                figures = [scores(name, settings, condition, *one) for one in seen]
                took = (time.perf_counter() - begin) / victims
                print(f"{name}, {condition.name}, batch {size}: {took:.1f} s a victim", file=sys.stderr)
                rows += [row(name, condition, size, figure, [own[figure] for own in figures]) for figure in _FIGURES]
    return rows


def observed(condition: Condition, victims: int, size: int) -> Iterator[tuple[Observation, Truth, World]]:
    """Yield the first gradients of the first clients."""
    scenario = {
        "title": "benchmark",
        "seed": 5,
        "data": {"name": "lee-news", "length": 16},
        "model": {"name": "tiny-llama", "dropout": condition.dropout},
        "federation": {"clients": 20, "batch_size": size},
        "defenses": [{"name": "gradient-noise", "scale": condition.noise}] if condition.noise else [],
    }
    world = shared(parse(scenario, "benchmark").model_dump_json())
    for client in range(victims):
        update, truth = local_training(world, world.first_weights, 1, client)
        entry = WireEntry(1, client, world.first_weights, update)
        yield observe(world, entry, truth, condition.knows), truth, world


def scores(
    name: str,
    settings: Mapping[str, Any],
    condition: Condition,
    observation: Observation,
    truth: Truth,
    world: World,
) -> dict[str, float]:
    """Return every figure of one victim; zeros where the attack does not apply."""
    method = registry.get("attack", name)
    ignores = {"unknown_masks": "ignored"} if condition.ignores_masks else {}
    attack = method.make(method.config.model_validate({**settings, **ignores}))
    try:
        found = attack(observation, seeding.generator(0, f"benchmark {name}"))
    except NotApplicable as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return dict.fromkeys(_FIGURES, 0.0)
    assert world.dataset.tokenizer is not None
    batch = truth.private[0]
    sentences = score_sentences(found, batch, world.dataset.tokenizer).sentences
    pairs = [(own.guess.split(), own.text.split()) for own in sentences]
    words = score_words(found, batch, world.dataset.tokenizer)
    return {
        "tokens right": _mean([own.token_accuracy for own in sentences]),
        "ROUGE-1": _mean([rouge_n(*pair, 1) for pair in pairs]),
        "ROUGE-2": _mean([rouge_n(*pair, 2) for pair in pairs]),
        "ROUGE-L": _mean([own.rouge_l for own in sentences]),
        "exact sentences": _mean([float(own.exact) for own in sentences]),
        "words found": words["words found"],
        "found words right": words["found words that are right"],
    }


def row(name: str, condition: Condition, size: int, figure: str, values: list[float]) -> Row:
    """Return the mean over victims with its interval, which stands where other benchmarks have least and greatest."""
    low, high = interval(values)
    setting = f"{condition.name}, batch {size}"
    return Row(f"{name}: {figure}", setting, _mean(values), "", low, _mean(values), high, len(values), "reported", True)


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean by bootstrap over victims."""
    source = np.random.default_rng(0)
    means = source.choice(values, (_RESAMPLES, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main(measure, __doc__ or "")
