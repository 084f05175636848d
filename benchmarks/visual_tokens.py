"""How many visual tokens a vision-language model needs: accuracy, cost and seconds of reducers beside keep-all's.

The tiny VLM (`fedsim bench model digit-grids`) answers questions about grids of digits that it never saw, as it was
trained and with a reducer that it was not trained with. Shares have their 95 % interval over questions; `random-tokens`
is the mean of three draws of its places. Products are the multiplications of all matrix products that ran, ranking
and fillers among them; seconds are processor time on one thread, round by round in turn with keep-all's; a prompt is
the encoder, the projector and all layers. With
--figure PATH accuracy is drawn against the visual tokens of a layer, on average. --targets asks 400 questions for cells
alone, of this model and of the one whose encoder was trained on too (`fedsim bench model digit-grids-unfrozen`): 16
tokens of an oracle must do, and 16 random ones must not, for a model to judge reducers by. Without --full 200 questions
of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import copy  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks._rows import Row, as_json, as_table, measured, of_interval  # noqa: E402
from fedsim.bench import grids, unfreezing  # noqa: E402
from fedsim.bench.grid_accuracy import MEASURED, accuracy, questions, right_answers  # noqa: E402
from fedsim.core import registry  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.core.visual import visual_passes  # noqa: E402
from fedsim.data._grid_words import Kind  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402
from fedsim.models.tiny_vlm import TinyVlm  # noqa: E402
from fedsim.record import Interval  # noqa: E402

KEPT = (32, 16, 8, 4)
TIMED = (32, 16, 8)
DRAWS = 3  # of random places
QUESTIONS, SHORT = 1000, 200
_TARGET, _TARGET_QUESTIONS = 16, 400
ROUNDS, BATCH = 15, 16
_SEED = 3


@dataclass(frozen=True)
class Contender:
    """A reducer with settings, how it is called, and how often its first values are drawn."""

    label: str
    component: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    draws: int = 1

    def models(self, plain: TinyVlm) -> Iterator[TinyVlm]:
        """Yield the trained model with the reducer, once for each draw."""
        method = registry.get("component", self.component)
        for seed in range(self.draws):
            reducer = method.make(method.config.model_validate(dict(self.settings))).named(self.component)
            yield reducer.prepare(copy.deepcopy(plain), torch.Generator().manual_seed(seed)).eval()


@dataclass(frozen=True)
class Point:
    """A contender's answers.

    Attributes:
        label: of the contender.
        tokens: visual tokens of a layer, mean over layers and questions.
        last: visual tokens of the last layer, mean over questions.
        right: share of right answers by kind of question.
    """

    label: str
    tokens: float
    last: float
    right: Mapping[Kind, Interval]


def contenders(kept: int) -> list[Contender]:
    """Return the reference reducers that keep so many tokens."""
    settings = {"kept": kept}
    return [
        Contender("oracle", "oracle-tokens", settings),
        Contender("class token", "cls-topk", settings),
        Contender("attention, layer 2", "attention-topk", {**settings, "layer": 2}),
        Contender("random", "random-tokens", settings, DRAWS),
    ]


def published() -> list[Contender]:
    """Return methods of papers, with positions counted anew as theirs and kept, beside one early drop at equal cost."""
    anew, kept = ("positions anew", {"recount": True}), ("positions kept", {"recount": False})
    tested = [
        Contender(f"pyramid, {label}", "pyramid-drop", {"shares": shares, **settings})
        for shares in ((0.5, 0.25), (0.25, 0.0625))
        for label, settings in (anew, kept)
    ]
    # As many tokens a layer as each pyramid: 2 N + 2 N r_1 + 2 N r_2 = N + 5 k.
    tested += [Contender("attention, layer 0", "attention-topk", {"kept": count, "layer": 0}) for count in (32, 21)]
    tested += [
        Contender(f"must-drop, {label}", "must-drop", {"overall": share, "single": share, **settings})
        for share in (0.01, 0.02, 0.04)
        for label, settings in (anew, kept)
    ]
    return tested + trained_ones()


def trained_ones() -> list[Contender]:
    """Return the reducer that is trained for the model, by the share of the tokens that a layer reads."""
    return [Contender("rcp", "rcp", {"weights": name}) for name in ("rcp-50", "rcp-37")]


def question_batches(full: bool) -> dict[Kind, Batch]:
    """Return the questions that all contenders answer."""
    return {kind: questions(kind, QUESTIONS if full else SHORT, _SEED) for kind in MEASURED}


def point(contender: Contender, plain: TinyVlm, batches: Mapping[Kind, Batch]) -> Point:
    """Let a contender answer."""
    right: dict[Kind, list[list[float]]] = {kind: [] for kind in batches}
    layers: list[list[int]] = []
    for model in contender.models(plain):
        for kind, batch in batches.items():
            with visual_passes(model) as passes:
                right[kind].append(right_answers(model, batch).double().tolist())
            layers += [list(counts) for one in passes for counts in zip(*one.visual, strict=True)]
    tokens = statistics.fmean(statistics.fmean(counts) for counts in layers)
    shares: dict[Kind, Interval] = {kind: _share(flags) for kind, flags in right.items()}
    return Point(contender.label, tokens, statistics.fmean(counts[-1] for counts in layers), shares)


def _share(right: Sequence[Sequence[float]]) -> Interval:
    """Return a share over questions, each of which counts by the share of the draws that got it right."""
    each = [statistics.fmean(one) for one in zip(*right, strict=True)]
    return wilson(sum(each), len(each))


def row(name: str, setting: str, right: Interval) -> Row:
    """Return the row of a share, whose least and greatest are the ends of its interval."""
    return of_interval(name, setting, right, "%", 100)


def accuracy_rows(plain: TinyVlm, batches: Mapping[Kind, Batch], points: list[Point]) -> Iterator[Row]:
    """Yield accuracies of all contenders, and collect their points."""
    references = [contender for kept in KEPT for contender in contenders(kept)]
    every = [Contender("keep-all", "keep-all"), *references, *published()]
    for each in every:
        result = point(each, plain, batches)
        points.append(result)
        setting = f"{each.label}, {result.last:.0f} behind the drop, {result.tokens:.1f} a layer"
        yield from (row(f"right, {kind}", setting, right) for kind, right in result.right.items())
    yield from layer_rows(plain, batches)


def layer_rows(plain: TinyVlm, batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield accuracies by the layer whose attention ranks and the number of tokens that stay behind it."""
    for kept in TIMED:
        for layer in range(plain.visual.layers - 1):
            contender = Contender("", "attention-topk", {"kept": kept, "layer": layer})
            result = point(contender, plain, batches)
            setting = f"attention, {kept} of 64 behind layer {layer}"
            yield from (row(f"right, {kind}", setting, right) for kind, right in result.right.items())


@torch.no_grad()
def leaning_rows(plain: TinyVlm, batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield which way answers go wrong: too many, too few, and yes in place of no."""
    words = grids.WORDS
    for contender in (Contender("keep-all", "keep-all"), *contenders(32), *contenders(16)):
        model, setting = next(contender.models(plain)), contender.label
        if "kept" in contender.settings:
            setting = f"{contender.label}, {contender.settings['kept']} of 64"
        said = {kind: _first_words(model, batch) for kind, batch in batches.items()}
        count, true = said["counting"], batches["counting"].labels[:, 0]
        yield row("counting: says too many", setting, wilson(int((count > true).sum()), len(true)))
        yield row("counting: says too few", setting, wilson(int((count < true).sum()), len(true)))
        for word in ("yes", "no"):
            is_asked = batches["presence"].labels[:, 0] == words.of(word)
            yes = said["presence"][is_asked] == words.of("yes")
            yield row(f"presence: says yes where {word} is right", setting, wilson(int(yes.sum()), len(yes)))


def _first_words(model: TinyVlm, batch: Batch) -> torch.Tensor:
    return torch.cat([model(some.inputs, **some.given)[:, 0].argmax(-1) for some in batch.split(250)])


def blind_rows(plain: TinyVlm, count: int) -> Iterator[Row]:
    """Yield what is right without the image, and the most frequent answer's share."""
    for kind in MEASURED:
        figures = accuracy(plain, kind, count, _SEED)
        yield row(f"right, {kind}", "image black", figures.blind)
        yield measured(f"right, {kind}", "most frequent answer", [100 * figures.majority], "%", "")
        if figures.several is not None:
            yield row(f"right, {kind}", "keep-all, digits that occur more than once", figures.several)


@torch.no_grad()
def seconds_rows(plain: TinyVlm, batch: Batch) -> Iterator[Row]:
    """Yield how much faster and cheaper a prompt and a token of the answer are than keep-all's."""
    some = next(batch.split(BATCH))
    for kept in TIMED:
        for contender in contenders(kept)[:3]:
            must = "> 1" if kept <= 32 else ""  # noqa: PLR2004 - half of the tokens
            yield from cost_rows(contender, f"{contender.label}, {kept} of 64, batch {BATCH}", plain, some, must)


@torch.no_grad()
def cost_rows(contender: Contender, setting: str, plain: TinyVlm, batch: Batch, must: str) -> Iterator[Row]:
    """Yield seconds and products of a contender's prompt and token beside keep-all's, in turn."""
    (base,), (model,) = Contender("keep-all", "keep-all").models(plain), contender.models(plain)
    ratios: list[tuple[float, float]] = []
    for number in range(ROUNDS + 2):
        pair = [timed(one, batch) for one in ((base, model) if number % 2 else (model, base))]
        slow, fast = pair if number % 2 else pair[::-1]
        ratios.append((slow[0] / fast[0], slow[1] / fast[1]))
    prompts, tokens = zip(*ratios[2:], strict=True)  # the first rounds warm up
    yield measured("prompt: keep-all's seconds / own", setting, prompts, "times", must)
    yield measured("token: keep-all's seconds / own", setting, tokens, "times", "")
    whole, less = costs(base, batch), costs(model, batch)
    for name, before, after in zip(("prompt", "token"), whole, less, strict=True):
        yield measured(f"{name}: own products / keep-all's", setting, [after / before], "share", "")


def timed(model: TinyVlm, batch: Batch) -> tuple[float, float]:
    """Return processor seconds of a prompt and of a token behind it."""
    question, first = batch.given["question"], batch.labels[:, 0]
    begin = time.process_time()
    read = model.begin(model.encode(batch.inputs, question), question)
    middle = time.process_time()
    for _ in range(4):
        model.follow(read, first)
    return middle - begin, (time.process_time() - middle) / 4


def products(act: Callable[[], object]) -> int:
    """Return how many multiplications the products of matrices in a call take, whatever they serve."""
    with FlopCounterMode(display=False) as counter:
        act()
    return counter.get_total_flops() // 2  # which counts additions too


@torch.no_grad()
def costs(model: TinyVlm, batch: Batch) -> tuple[int, int]:
    """Return the products of the prompts of a batch, and of a token behind them."""
    question, first = batch.given["question"], batch.labels[:, 0]
    prompt = products(lambda: model.begin(model.encode(batch.inputs, question), question))
    read = model.begin(model.encode(batch.inputs, question), question)
    return prompt, products(lambda: model.follow(read, first))


def measure(full: bool, points: list[Point] | None = None) -> list[Row]:
    """Return all rows."""
    plain, batches = grids.trained(), question_batches(full)
    table = points if points is not None else list[Point]()
    return [
        *accuracy_rows(plain, batches, table),
        *leaning_rows(plain, batches),
        *blind_rows(plain, QUESTIONS if full else SHORT),
        *seconds_rows(plain, batches["position"]),
    ]


def target_rows() -> Iterator[Row]:
    """Yield what the oracle's and random tokens come to on questions for cells, of both trained models."""
    batch = questions("position", _TARGET_QUESTIONS, _SEED)
    for name, plain in (("encoder frozen", grids.trained()), ("encoder trained on", unfreezing.trained())):
        oracle, *_, at_random = contenders(_TARGET)
        for contender in (Contender("keep-all", "keep-all"), oracle, at_random):
            result = point(contender, plain, {"position": batch})
            yield row(
                "right, position",
                f"{name}, {contender.label}, {result.last:.0f} tokens",
                result.right["position"],
            )


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw accuracy against the visual tokens of a layer, a panel for each kind of question."""
    import matplotlib  # noqa: PLC0415 - slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, panels = pyplot.subplots(1, len(MEASURED), figsize=(13, 3.4), sharey=True, layout="constrained")
    base = points[0]
    for panel, kind in zip(panels, MEASURED, strict=True):
        for label in dict.fromkeys(each.label for each in points[1:]):
            some = sorted(
                (each for each in [base, *points] if each.label in (base.label, label)), key=lambda each: each.tokens
            )
            values = [100 * each.right[kind].value for each in some]
            low = [100 * (each.right[kind].value - (each.right[kind].low or 0)) for each in some]
            high = [100 * ((each.right[kind].high or 0) - each.right[kind].value) for each in some]
            panel.errorbar([each.tokens for each in some], values, [low, high], marker="o", markersize=3, label=label)
        panel.set_title(kind)
        panel.set_xlabel("visual tokens of a layer")
        panel.set_xscale("log", base=2)
        panel.set_xticks((*KEPT[::-1], 64), [str(count) for count in (*KEPT[::-1], 64)])
    panels[0].set_ylabel("right answers in %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)


def main(run: Callable[[bool, list[Point]], Sequence[Row]]) -> None:
    """Run the command line, with one thread of torch."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--full", action="store_true", help="the long version")
    parser.add_argument("--figure", type=Path, help="file for the figure")
    parser.add_argument("--targets", action="store_true", help="whether models are fit to judge reducers by")
    chosen = parser.parse_args()
    points: list[Point] = []
    rows = list(target_rows()) if chosen.targets else run(chosen.full, points)
    print(as_json(rows) if chosen.json else as_table(rows))
    if chosen.figure:
        draw(points, chosen.figure)
        print(f"Wrote {chosen.figure}.", file=sys.stderr)


if __name__ == "__main__":
    main(measure)
