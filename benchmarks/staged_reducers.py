"""MustDrop at stated numbers of tokens, and what its stages and PyramidDrop's cost in products and seconds.

The thresholds of `must-drop` are found by bisection, so that of 100 questions as many visual tokens as asked for are
left behind the last drop, on average; positions stay. 200 other questions of each kind are answered then, beside the
class token's choice and random places of as many tokens, which are dropped in front of the language model. Products are
those of the language model's layers for a prompt, of the first question; seconds are processor time on one thread, in
turn with keep-all's: of 16 questions at once, and of the first one alone. Where 16 or fewer tokens are left, layers
read half of the tokens on average, and a prompt must take less time. --full asks 1,000 questions of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402

import torch  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks.visual_tokens import BATCH, Contender, contenders, cost_rows, point, question_batches, row  # noqa: E402
from fedsim.bench import grids  # noqa: E402
from fedsim.bench.grid_accuracy import questions  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.core.visual import visual_passes  # noqa: E402
from fedsim.data._grid_words import Kind  # noqa: E402
from fedsim.models.tiny_vlm import TinyVlm  # noqa: E402

BUDGETS = (32, 16, 8)
HALF_READ = 16  # tokens that are left where layers read half of all, on average
PYRAMIDS = ((0.5, 0.25), (0.25, 0.0625))
LAYERS = ((1, 2, 3, 4), (1,))
_PROMPTS, _PROMPT_SEED, _HALVINGS = 100, 4, 10
_FIRST = torch.tensor([0])
_THETAS = (0.001, 0.5)  # all tokens stay, and next to none


def with_theta(theta: float, layers: tuple[int, ...]) -> Contender:
    """Return MustDrop with both thresholds alike, which drops behind some layers."""
    settings = {"overall": theta, "single": theta, "layers": layers, "recount": False}
    return Contender(f"must-drop behind {len(layers)} of 6 layers", "must-drop", settings)


@torch.no_grad()
def tokens_left(contender: Contender, plain: TinyVlm, batch: Batch) -> float:
    """Return how many visual tokens the last layer reads, mean over questions."""
    (model,) = contender.models(plain)
    with visual_passes(model) as passes:
        model(batch.inputs, **batch.given)
    return statistics.fmean(passes[0].visual[-1])


def calibrated(wanted: float, layers: tuple[int, ...], plain: TinyVlm, batch: Batch) -> float:
    """Return the threshold at which about so many tokens are left, by bisection."""
    low, high = _THETAS
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        if tokens_left(with_theta(middle, layers), plain, batch) > wanted:
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5


def budget_rows(plain: TinyVlm, batches: Mapping[Kind, Batch], prompts: Batch) -> Iterator[Row]:
    """Yield accuracy and cost of MustDrop at each budget, beside choices of one stage."""
    timed = next(batches["position"].split(BATCH))
    for wanted in BUDGETS:
        thetas = [calibrated(wanted, layers, plain, prompts) for layers in LAYERS]
        staged = [with_theta(theta, layers) for theta, layers in zip(thetas, LAYERS, strict=True)]
        _, by_class, _, at_random = contenders(wanted)
        for contender in (*staged, by_class, at_random):
            result = point(contender, plain, batches)
            setting = f"{contender.label}, {wanted} asked for, {result.last:.1f} behind the drop, "
            setting += f"{result.tokens:.1f} a layer"
            yield from (row(f"right, {kind}", setting, right) for kind, right in result.right.items())
        for contender, theta in zip(staged, thetas, strict=True):
            yield measured("threshold", f"{contender.label}, {wanted} asked for", [theta], "", "")
            must = "> 1" if wanted <= HALF_READ else ""
            yield from cost_rows(contender, f"{contender.label}, {wanted} asked for, batch {BATCH}", plain, timed, must)
            yield from cost_rows(
                contender, f"{contender.label}, {wanted} asked for, alone", plain, timed.taken(_FIRST), ""
            )


def pyramid_rows(plain: TinyVlm, batch: Batch) -> Iterator[Row]:
    """Yield the cost of pyramids."""
    for shares in PYRAMIDS:
        contender = Contender("pyramid", "pyramid-drop", {"shares": shares, "recount": False})
        yield from cost_rows(contender, f"pyramid {shares[0]:g}, {shares[1]:g}, batch {BATCH}", plain, batch, "> 1")


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    plain, batches = grids.trained(), question_batches(full)
    prompts = Batch.joined([questions(kind, _PROMPTS // 3 + 1, _PROMPT_SEED) for kind in batches])
    return [
        *pyramid_rows(plain, next(batches["position"].split(BATCH))),
        *budget_rows(plain, batches, prompts),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
