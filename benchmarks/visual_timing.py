"""Whether seconds of a prompt tell the question's kind or how many digits there are, where tokens are left out.

The trained tiny VLM reads questions one by one, in random order, and an observer sees the processor seconds of each
prompt and nothing else. It learns on half of them, by tenths of the seconds (naive Bayes with add-one), and answers the
other half; beside each share stands that of the most frequent answer. With keep-all every prompt costs the same
products (control at chance); a planted reducer that keeps 8 tokens unless a cell is asked for must be seen. Beside it
what the number of tokens tells, summed over layers, which no clock blurs. Seconds differ between runs and machines.
Without --full 100 questions of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import copy  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks.staged_reducers import with_theta  # noqa: E402
from benchmarks.visual_side_channel import share_told  # noqa: E402
from benchmarks.visual_tokens import Contender, row, timed  # noqa: E402
from fedsim.bench import grids  # noqa: E402
from fedsim.bench.grid_accuracy import MEASURED, questions  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.core.visual import Stream, VisualReducer, visual_passes  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

QUESTIONS, SHORT = 400, 100
_SEED, _THETA, _TENTHS, _WARM, _FEW = 6, 0.02, 10, 10, 8
_TILE, _NOISE = 14, 0.1


class _Planted(VisualReducer):
    """Keeps few tokens unless a cell is asked for: what must be seen."""

    def projected(self, stream: Stream) -> Stream:
        assert stream.tokens is not None, "the question stands in the sequence"
        asks_cell = int(stream.tokens[0, 1]) == grids.WORDS.of("what")  # behind the sign of a question
        return stream if asks_cell else stream.keep(torch.arange(_FEW)[None])


def models() -> Mapping[str, Any]:
    """Return the models that are timed, by a name."""
    plain = grids.trained()
    planted = copy.deepcopy(plain)
    planted.reducers.append(_Planted())
    contenders = {
        "keep-all": Contender("", "keep-all"),
        "class token, 16": Contender("", "cls-topk", {"kept": 16}),
        "pyramid 0.5, 0.25": Contender("", "pyramid-drop", {"recount": False}),
        "must-drop 0.02": with_theta(_THETA, (1, 2, 3, 4)),
        "rcp-50": Contender("", "rcp", {"weights": "rcp-50"}),
    }
    return {
        "planted (control)": planted,
        **{name: next(contender.models(plain)) for name, contender in contenders.items()},
    }


@torch.no_grad()
def clocked(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return seconds of each prompt, and how many visual tokens its layers read in all, (N,) each."""
    for number in range(_WARM):
        timed(model, batch.taken(torch.tensor([number])))
    seconds, tokens = list[float](), list[int]()
    for number in range(len(batch)):
        with visual_passes(model) as passes:
            seconds.append(timed(model, batch.taken(torch.tensor([number])))[0])
        tokens.append(sum(counts[0] for counts in passes[0].visual))
    return torch.tensor(seconds), torch.tensor(tokens)


def in_tenths(values: Tensor) -> Tensor:
    """Return which tenth of the earlier half each value (N,) lies in, one-hot (N, 10)."""
    edges = values[: len(values) // 2].double().quantile(torch.linspace(0, 1, _TENTHS + 1, dtype=torch.double)[1:-1])
    return torch.nn.functional.one_hot(torch.bucketize(values.double(), edges), _TENTHS)


def filled_cells(images: Tensor) -> Tensor:
    """Return how many cells of each image hold a digit, (N,)."""
    return (images.unfold(2, _TILE, _TILE).unfold(3, _TILE, _TILE).amax((4, 5)) > _NOISE).flatten(1).sum(1)


def rows_of(name: str, seconds: Tensor, tokens: Tensor, kinds: Tensor, digits: Tensor) -> Iterator[Row]:
    """Yield what seconds and what numbers of tokens tell."""
    yield measured("seconds of a prompt", name, seconds.tolist(), "s", "")
    yield measured("visual tokens, summed over layers", name, tokens.tolist(), "", "")
    for seen, values in (("seconds", seconds), ("number of tokens", tokens)):
        for what, labels in (("kind of question", kinds), ("number of digits", digits)):
            right, usual = share_told(in_tenths(values), labels)
            yield row(f"told by {seen}: {what}", name, wilson(int(right.sum()), len(right)))
            yield measured(f"told by {seen}: {what}", f"{name}: most frequent answer", [100 * usual], "%", "")


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    count = QUESTIONS if full else SHORT
    batch = Batch.joined([questions(kind, count, _SEED) for kind in MEASURED])
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    batch, kinds = batch.taken(order), torch.arange(len(MEASURED)).repeat_interleave(count)[order]
    digits = filled_cells(batch.inputs)
    return [
        one
        for name, model in models().items()
        for one in rows_of(name, *clocked(model, batch), kinds, digits - digits.min())
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
