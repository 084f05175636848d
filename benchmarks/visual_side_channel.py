"""What the places of kept visual tokens tell whoever sees them: the kind of question, the cell, where digits are.

The trained tiny VLM keeps 16 of 64 visual tokens by several choices, or as many as PyramidDrop and MustDrop leave. An
observer sees which, or only how many, and nothing else. It learns on half of the questions, by counting how often each
place is kept (naive Bayes with add-one), and answers the other half. Beside each share stands that of the most frequent
answer. `oracle` must succeed, and keep-all and random places must be at chance. Where digits are is the area under the
curve of the tokens kept in a cell. Without --full 300 questions of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator, Mapping  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured, of_interval  # noqa: E402
from benchmarks.visual_tokens import Contender, contenders, published, row  # noqa: E402
from fedsim.bench import grids  # noqa: E402
from fedsim.bench.grid_accuracy import MEASURED, questions  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.core.visual import visual_passes  # noqa: E402
from fedsim.core.visual.patches import kept_patches  # noqa: E402
from fedsim.data._grid_words import Kind  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

KEPT = 16
QUESTIONS, SHORT = 1000, 300
_SEED, _NOISE = 5, 0.1


@torch.no_grad()
def kept(contender: Contender, batches: Mapping[Kind, Batch]) -> dict[Kind, Tensor]:
    """Return which patches the last layer read for each question, (N, 64)."""
    (model,) = contender.models(grids.trained())
    places: dict[Kind, Tensor] = {}
    for kind, batch in batches.items():
        with visual_passes(model) as passes:
            for some in batch.split(250):
                model(some.inputs, **some.given)
        places[kind] = torch.cat([kept_patches(one, model.visual.patches) for one in passes])
    return places


def share_told(places: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Return which labels of the later half an observer tells who learnt on the earlier, and the usual one's share."""
    half, classes = len(labels) // 2, int(labels.max()) + 1
    one_hot = torch.nn.functional.one_hot(labels[:half], classes).double()
    counts = one_hot.sum(0)
    odds = (one_hot.T @ places[:half].double() + 1) / (counts[:, None] + 2)
    seen = places[half:].double()
    scores = seen @ odds.log().T + (1 - seen) @ (1 - odds).log().T + ((counts + 1) / (half + classes)).log()
    usual = float((labels[half:] == counts.argmax()).double().mean())
    return scores.argmax(1) == labels[half:], usual


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    count = QUESTIONS if full else SHORT
    batches: dict[Kind, Batch] = {kind: questions(kind, count, _SEED) for kind in MEASURED}
    staged = [
        contender for contender in published() if "kept" in contender.label and contender.component != "attention-topk"
    ]
    every = [Contender("keep-all", "keep-all"), *contenders(KEPT), staged[0], staged[3]]
    return [
        one
        for contender in every
        for one in rows_of(Contender(contender.label, contender.component, contender.settings), batches)
    ]


def rows_of(contender: Contender, batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield what the places of a contender tell."""
    yield from rows_of_places(contender.label, kept(contender, batches), batches)


def rows_of_places(label: str, places: Mapping[Kind, Tensor], batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield what places (N, 64) by kind of question tell."""
    order = torch.randperm(sum(map(len, places.values())), generator=torch.Generator().manual_seed(0))
    kinds = torch.cat([torch.full((len(one),), number) for number, one in enumerate(places.values())])
    yield from _answered("kind of question", label, *share_told(torch.cat([*places.values()])[order], kinds[order]))
    counts = torch.cat([torch.nn.functional.one_hot(one.sum(1), one.shape[1] + 1) for one in places.values()])
    yield from _answered("kind of question, by the number of tokens", label, *share_told(counts[order], kinds[order]))
    position = batches["position"]
    cell_places = position.given["question"][:, 2:] - torch.tensor([grids.WORDS.of("r0"), grids.WORDS.of("c0")])
    cells = cell_places[:, 0] * grids.CELLS + cell_places[:, 1]
    yield from _answered("cell that is asked for", label, *share_told(places["position"], cells))
    of_patch = torch.nn.functional.one_hot(grids.fresh().visual.cells_of_patches(grids.CELLS), grids.CELLS**2)
    in_cell = places["presence"].long() @ of_patch
    bright = batches["presence"].inputs.unfold(2, 14, 14).unfold(3, 14, 14).amax((4, 5)).flatten(1) > _NOISE
    scores, filled = in_cell.flatten().numpy(), bright.flatten().numpy()
    area = auc_interval(scores[filled], scores[~filled], np.random.default_rng(0))
    yield of_interval("where digits are, area", label, area, "")


def _answered(name: str, label: str, right: Tensor, usual: float) -> Iterator[Row]:
    yield row(f"told: {name}", label, wilson(int(right.sum()), len(right)))
    yield measured(f"told: {name}", f"{label}: most frequent answer", [100 * usual], "%", "")


if __name__ == "__main__":
    main(measure, __doc__ or "")
