"""RCP on the tiny VLM: right answers, what mending does, and what its gradient and its summary tell.

The trained parts of `fedsim bench model rcp-50` and the others like it answer questions about unseen grids, beside a
drop by the attention of an early layer with as many tokens a layer, and beside parts trained without the moments' loss,
or without mending. Moments: the distance of mean and variance of states that predict answers from the full model's. The
gradient of one question that a client would send, of the parts alone, is read for which patches were kept. The summary
of lost tokens is read by a ridge regression for the cells with digits. Without --full 200 questions of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator, Mapping  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, main, measured, of_interval  # noqa: E402
from benchmarks.visual_side_channel import rows_of  # noqa: E402
from benchmarks.visual_tokens import BATCH, ROUNDS, Contender, point, row, timed  # noqa: E402
from fedsim.bench import grids, pruning  # noqa: E402
from fedsim.bench.grid_accuracy import MEASURED, questions  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.core.visual import LayerView, Stream, VisualReducer, acting  # noqa: E402
from fedsim.data._grid_words import Kind  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

QUESTIONS, SHORT, CLIENTS = 1000, 200, 60
_SEED = 3
_USED = ("rcp-50", "rcp-37")


def answer_rows(plain: Any, models: Mapping[str, Any], batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield right answers of each training, and of a drop behind layer 0 with as many tokens a layer."""
    for name in models:
        contender = Contender(name, "rcp", {"weights": name})
        result = point(contender, plain, batches)
        kept = round((plain.visual.layers * result.tokens - plain.visual.patches) / (plain.visual.layers - 1))
        early = Contender(f"attention of layer 0, as {name}", "attention-topk", {"kept": max(1, kept), "layer": 0})
        for one in (result, point(early, plain, batches)):
            setting = f"{one.label}, {one.last:.1f} behind the last drop, {one.tokens:.1f} a layer"
            yield from (row(f"right, {kind}", setting, right) for kind, right in one.right.items())


class _Watching(VisualReducer):
    """Keeps states that predict answers behind some layers, and what rcp notes of lost tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, list[Tensor]] = {}
        self.lost: list[Tensor] = []

    def after_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        self.states.setdefault(layer.number, []).append(after.hidden[:, after.predicting].flatten(0, 1))
        if layer.number == 1 and "rcp.lost.1" in after.notes:
            self.lost.append(after.notes["rcp.lost.1"])
        return after


@torch.no_grad()
def watched(model: Any, batch: Batch) -> _Watching:
    """Let a model answer, and return what was seen."""
    watching = _Watching()
    with acting(model, watching):
        for some in batch.split(250):
            model(some.inputs, some.given["question"], some.labels[:, :-1].clamp_min(0))
    return watching


def moment_rows(plain: Any, models: Mapping[str, Any], batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield how far states are from the full model's, with and without mending."""
    batch = Batch.joined(list(batches.values()))
    true = watched(plain, batch).states
    for name, model in models.items():
        reducer = model.reducers[0]
        strengths = [repair.strength.item() for repair in reducer.repairs.values()]
        for label, factor in (("as trained", 1.0), ("mending switched off", 0.0)):
            for part, strength in zip(reducer.repairs.values(), strengths, strict=True):
                nn.init.constant_(part.strength, factor * strength)
            states = watched(model, batch).states
            for layer in map(int, reducer.repairs):
                gap = pruning.moment_gap(torch.cat(states[layer]), torch.cat(true[layer])).item()
                yield measured(f"moments' distance behind layer {layer}", f"{name}, {label}", [gap], "", "")
        for part, strength in zip(reducer.repairs.values(), strengths, strict=True):
            nn.init.constant_(part.strength, strength)


def gradient_rows(model: Any, name: str) -> Iterator[Row]:
    """Yield how often rows of the learned places that have a gradient are just the kept patches."""
    reducer = model.reducers[0]
    model.requires_grad_(False)
    reducer.requires_grad_(True)
    for size in (1, 8):
        batch = questions("position", size * CLIENTS, _SEED + 2)
        flags = [_reads_masks(model, some) for some in batch.split(size)]
        setting = f"{name}, batch of {size}"
        for place, layer in enumerate(reducer.lost):
            right = [one[place] for one in flags]
            yield row(
                f"patches that any example kept, before layer {layer}, read exactly",
                setting,
                wilson(sum(right), len(right)),
            )
    model.eval()


def _reads_masks(model: Any, batch: Batch) -> list[bool]:
    reducer = model.reducers[0]
    model.eval()
    reducer.train()
    kept: dict[str, Tensor] = {}
    hooks = [
        lost.register_forward_hook(
            lambda _module, given, _output, name=name: kept.update({name: given[0].detach() > 0})
        )
        for name, lost in reducer.lost.items()
    ]
    reducer.zero_grad()
    scores = model(batch.inputs, batch.given["question"], batch.labels[:, :-1].clamp_min(0))
    F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten()).backward()
    for hook in hooks:
        hook.remove()
    return [bool(torch.equal((lost.places.grad != 0).any(1), kept[name].any(0))) for name, lost in reducer.lost.items()]


def summary_rows(model: Any, name: str, batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield how well a ridge regression tells cells with digits from what is kept of the lost tokens."""
    batch = batches["presence"]
    summary = torch.cat(watched(model, batch).lost).double()
    filled = batch.inputs.unfold(2, 14, 14).unfold(3, 14, 14).amax((4, 5)).flatten(1) > 0.1  # noqa: PLR2004 - noise
    half = len(summary) // 2
    shuffled = summary[torch.randperm(len(summary), generator=torch.Generator().manual_seed(0))]
    for label, seen in (("", summary), (", of another image (control)", shuffled)):
        centred = F.pad((seen - seen[:half].mean(0)) / seen[:half].std(0).clamp_min(1e-9), (0, 1), value=1.0)
        known = centred[:half]
        ridge = known.T @ known + torch.eye(known.shape[1], dtype=torch.double)
        guess = centred[half:] @ torch.linalg.solve(ridge, known.T @ filled[:half].double())
        scores, is_filled = guess.flatten().numpy(), filled[half:].flatten().numpy()
        area = auc_interval(scores[is_filled], scores[~is_filled], np.random.default_rng(0))
        yield of_interval(f"cells with digits from the summary of lost tokens, area{label}", name, area, "")


@torch.no_grad()
def seconds_rows(plain: Any, models: Mapping[str, Any], batch: Batch) -> Iterator[Row]:
    """Yield seconds of a prompt beside keep-all's, in turn."""
    some = next(batch.split(BATCH))
    for name, model in models.items():
        ratios = list[float]()
        for number in range(ROUNDS + 2):
            pair = [timed(one, some)[0] for one in ((plain, model) if number % 2 else (model, plain))]
            ratios.append(pair[0] / pair[1] if number % 2 else pair[1] / pair[0])
        yield measured("prompt: keep-all's seconds / own", f"{name}, batch {BATCH}", ratios[2:], "times", "")


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    plain, count = grids.trained(), QUESTIONS if full else SHORT
    batches: dict[Kind, Batch] = {kind: questions(kind, count, _SEED) for kind in MEASURED}
    models = {name: pruning.trained(name) for name in pruning.RECIPES}
    used = {name: models[name] for name in _USED}
    return [
        *answer_rows(plain, models, batches),
        *moment_rows(plain, models, batches),
        *seconds_rows(plain, used, batches["position"]),
        *(one for name, model in used.items() for one in summary_rows(model, name, batches)),
        *(one for name in used for one in rows_of(Contender(name, "rcp", {"weights": name}), batches)),
        *gradient_rows(models["rcp-37"], "rcp-37"),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
