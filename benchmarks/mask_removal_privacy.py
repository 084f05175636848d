"""What opening groups of blocks hides from an attack that reads prefixes, and what it does not.

A tiny Llama of four blocks tags made-up sentences; groups of one block, bit 1 the lowest; one gradient each of 20
clients, of one sentence or of four. The head drops out with probability 0.1. Rows: the rank of the gradient of a
block's queries over the number of tokens, the words that lie in the span of the first block's attention gradients, the
tokens and sentences that DAGER reads (none where it refuses), its time, and how many sequences it has to judge, as a
power of ten: beginnings of sentences, or all arrangements of the words where the lowest block looks ahead. Shares are
means, with their 95 % interval in the setting: Wilson's of what was read, by bootstrap over clients of ranks and words.
Papers: Dukic, Snajder 2024, arXiv 2401.14556 (the masks); Petrov et al. 2024, arXiv 2405.15586 (the attack).
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import math  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from typing import Any, cast  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, averaged, main, measured  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.errors import NotApplicable  # noqa: E402
from fedsim.core.hooks import Attack  # noqa: E402
from fedsim.core.types import Observation, Tensors, WireEntry  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402
from fedsim.metrics.text import score_sentences  # noqa: E402
from fedsim.scenario import parse, world  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

_OPEN = ("0000", "0001", "1000", "1111")
_CLIENTS = 20
_LEVEL = 1e-5  # of the largest singular value: what single precision leaves


def federation(chosen: str, sentences: int, words: int) -> World:
    """Return clients that send one gradient of so many sentences of at most so many words; the head drops out."""
    raw: dict[str, Any] = {
        "title": "causal-mask removal",
        "seed": 1,
        "data": {"name": "digit-tags", "length": words},
        "model": {"name": "tiny-llama", "blocks": 4},
        "components": [{"name": "causal-mask-removal", "open": chosen}],
        "federation": {"clients": _CLIENTS, "batch_size": sentences},
    }
    return world.build(parse(raw, "benchmark"))


def rank(matrix: Tensor) -> int:
    """Return the rank of a gradient, up to the rounding of single precision."""
    values = torch.linalg.svdvals(matrix.double())
    return int((values > _LEVEL * values[0]).sum())


def words_in_span(seen: Observation) -> set[int]:
    """Return the tokens whose input of the first attention lies in the span of its gradients."""
    rows = [seen.update.tensors[f"layers.0.self_attn.{letter}_proj.weight"].double() for letter in "qkv"]
    _, values, basis = torch.linalg.svd(torch.cat([row / row.norm() for row in rows]), full_matrices=False)
    basis = basis[values > _LEVEL * values[0]]
    with torch.no_grad():
        read = seen.model.get_submodule("layers.0.input_layernorm")(seen.model.get_parameter("embed_tokens.weight"))
    outside = (read - read @ basis.T.float() @ basis.float()).norm(dim=1) / read.norm(dim=1)
    return set((outside < 1e-4).nonzero().flatten().tolist())  # noqa: PLR2004 - what the attack takes for inside


def attacked(task_world: World, client: int, received: Tensors) -> dict[str, float]:
    """Return the figures of one client."""
    update, truth = local_training(task_world, received, 1, client)
    seen = observe(Victim(task_world, WireEntry(1, client, received, update), truth), ("batch-size", "dropout-rates"))
    (batch,), tokenizer = truth.private, task_world.data.dataset.tokenizer
    assert tokenizer is not None
    real = batch.inputs[batch.inputs != tokenizer.padding]
    words, read = set(real.tolist()), words_in_span(seen)
    figures = {
        f"rank of dWq over tokens, block {block}": rank(
            update.tensors[f"layers.{block}.self_attn.q_proj.weight"]) / len(real)
        for block in (0, 1)
    }  # fmt: skip
    figures["words read, share of all"] = len(words & read) / len(words)
    figures["words read, share that is right"] = len(words & read) / max(1, len(read))
    method = registry.get("attack", "dager")
    attack = cast("Attack[Any]", method.make(method.config()))
    begin, exact, right = time.perf_counter(), 0.0, 0.0
    try:
        guess = attack(seen, seeding.generator(0, "dager"))
        scores = score_sentences(guess, batch, tokenizer).sentences
        exact = sum(score.values["exact"] for score in scores) / len(scores)
        right = sum(score.values["token_accuracy"] for score in scores) / len(scores)
    except NotApplicable:
        pass
    seconds = time.perf_counter() - begin
    count = (
        arrangements(len(read), batch.inputs.shape[1]) if looks_ahead(task_world) else beginnings(len(read), len(real))
    )
    return {
        **figures,
        "tokens read exactly by dager": right,
        "sentences read exactly by dager": exact,
        "seconds of dager": seconds,
        "sequences to judge": math.log10(count),
    }


def looks_ahead(task_world: World) -> bool:
    """Say whether the lowest block is open."""
    return any(table.get("open", "").startswith("1") for table in task_world.scenario.model_dump()["components"])


def beginnings(words: int, tokens: int) -> int:
    """Return how many beginnings are judged: all true ones, with each of so many words behind."""
    return words * (1 + tokens)


def arrangements(words: int, longest: int) -> int:
    """Return how many arrangements of so many words there are of every length."""
    return sum(words**length for length in range(1, longest + 1))


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version has batches of eight sentences too."""
    rows: list[Row] = []
    for sentences, words in ((1, 6), (1, 12), (4, 12), *(((8, 12),) if full else ())):
        for chosen in _OPEN:
            client_world = federation(chosen, sentences, words)
            figures: dict[str, list[float]] = defaultdict(list)
            for client in range(_CLIENTS):
                for name, value in attacked(client_world, client, client_world.models.first_weights).items():
                    figures[name].append(value)
            setting = f"open {chosen}, {sentences} sentence{'s' if sentences > 1 else ''} of up to {words} words"
            rows += [_row(name, setting, values, chosen) for name, values in figures.items()]
    return rows


def _row(name: str, setting: str, values: list[float], chosen: str) -> Row:
    if name.startswith("seconds"):
        return measured(name, setting, values, "s", "")
    if name.startswith("sequences"):
        return measured(name, setting, values, "powers of ten", "")
    if "exactly" not in name:
        return averaged(name, setting, values, "share", "")
    must = ">= 0.99" if chosen.startswith("00") else ""  # the attack's control
    interval = wilson(sum(values), len(values))
    return measured(
        name, f"{setting}, mean [{interval.low:.2f}, {interval.high:.2f}]", values, "share", must, interval.value
    )


if __name__ == "__main__":
    main(measure, __doc__ or "")
