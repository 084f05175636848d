"""What `auto` makes of ten foreign networks within a stated time: what comes back, which attack won, what was left out.

Labels are inferred, masks unknown, weights untrained; digits of 8 x 8 pixels, batches of one and of four; and of the
first network, wider, large batches of MNIST. `auto` gets so many processor seconds an update. Without ``--full``: one
update a network and batch size. With it: five.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from torch import nn

from benchmarks._budget import are_exact, worst_psnr
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._foreign_networks import NETWORKS, ResidualDense
from benchmarks._reconstructing import reconstruct_batch
from benchmarks._rows import Row, median_row, share
from fedsim.core import registry
from fedsim.core.types import Dataset, Reconstruction
from fedsim.metrics.image import score_items
from fedsim.metrics.missing import complete

_SIZES = (1, 4)
_LARGE = {16: 0.25, 32: 0.5}  # batch sizes and dropout rates


@experiment("auto-budget", minutes=10, page="attacks/auto", seconds=30)
def auto_budget(budget: Budget) -> Cells:
    """Return a cell for each network and batch size."""
    updates, seconds = 5 if budget.full else 1, budget.seconds or 0.0
    cases = [(f"{name}, B = {size}", network, "digits", size) for name, network in NETWORKS.items() for size in _SIZES]
    cases += [
        (f"residual dense, SiLU, MNIST, dropout {rate:g}, B = {size}", partial(_wide, rate), "mnist5k", size)
        for size, rate in _LARGE.items()
    ]
    return {case[0]: partial(_rows, *case, updates, seconds) for case in cases}


def _wide(rate: float) -> nn.Module:
    return ResidualDense(width=512, rate=rate, pixels=784)


@cache
def _data(name: str) -> Dataset:
    method = registry.get("dataset", name)
    return method.make(method.config())


def _rows(
    setting: str, network: Callable[[], nn.Module], dataset: str, size: int, updates: int, budget: float
) -> Iterator[Row]:
    exact, worst, labels, seconds, ends = [], [], [], [], Counter[str]()
    data = _data(dataset)
    for number in range(updates):
        batch = data.train.select(torch.arange(size * number, size * (number + 1)))
        guess, taken = reconstruct_batch(network, batch, data.spec, number, budget)
        seconds.append(taken)
        scored = score_items(complete(guess, size), batch, data.spec)
        exact.append(float(are_exact(scored.items)))
        worst.append(worst_psnr(scored.items))
        labels.append(float(all(item.guessed_label == item.label for item in scored.items)))
        ends[_how_it_ended(guess)] += 1
    notes = "; ".join(words if updates == 1 else f"{count} of {updates}: {words}" for words, count in ends.items())
    yield share("images exact", setting, exact)._replace(note=notes)
    yield share("labels right", setting, labels)
    yield median_row("worst PSNR", setting, worst, "dB", "")
    yield median_row("processor seconds", setting, seconds, "s", "")


def _how_it_ended(guess: Reconstruction) -> str:
    """Return which attack won, and how many had no time or not enough of it."""
    ended = sum("was ended by its share" in note for note in guess.notes)
    left = sum("was left out" in note for note in guess.notes)
    won = next((note.removeprefix("won: ") for note in guess.notes if note.startswith("won: ")), guess.stop_reason)
    time_words = [f"{ended} ended by the clock"] * bool(ended) + [f"{left} left out"] * bool(left)
    return ", ".join([won, *time_words])
