"""DAMRO on the tiny VLM: right answers, false yes, whether there are outliers at all, cost, and what they tell.

The model of `fedsim bench model digit-grids` answers questions about unseen grids greedily, plainly and by the contrast
with 2 of 64 visual tokens: those that the encoder's class token attends to most, and two random ones (control). Shares
have their 95 % interval over questions. Outliers: the share of the class token's attention on the top two, how often
they lie in empty cells, and how many of them are among the two that the language model attends to most. Seconds are
processor time of a prompt and an answer in turn with plain decoding. Free listing (CHAIR) is asked of the model that
`fedsim bench model digit-grids-unfrozen` trained on, since the first one was never asked for all digits: the share of
named digits that are not in the image, of answers with one, and of digits that are named. Without --full 200 questions
of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import time  # noqa: E402
from collections.abc import Iterator, Mapping, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from benchmarks.visual_side_channel import rows_of_places  # noqa: E402
from benchmarks.visual_tokens import products, row  # noqa: E402
from fedsim.bench import grids, unfreezing  # noqa: E402
from fedsim.bench.grid_accuracy import MEASURED, questions  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Condition, GenerationContext  # noqa: E402
from fedsim.core.types import Batch, Limits  # noqa: E402
from fedsim.core.visual import LayerView, Stream, VisualReducer, acting  # noqa: E402
from fedsim.data._grid_words import Kind  # noqa: E402
from fedsim.generation import generate  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

QUESTIONS, SHORT = 1000, 200
ROUNDS = 40
_SEED, _K, _LONGEST = 3, 2, 4
_WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"strength": 0.0},
    **{f"alpha {alpha:g}": {"strength": alpha} for alpha in (0.5, 1.0, 2.0)},
    "alpha 2, positions kept": {"strength": 2.0, "recount": False},
    "alpha 2, random tokens": {"strength": 2.0, "choice": "random"},
    "alpha 2, 10 outliers": {"strength": 2.0, "outliers": 10},
    "alpha 2, no cutoff": {"strength": 2.0, "cutoff": 0.0},
}


def written(model: Any, batch: Batch, longest: int = _LONGEST, **settings: Any) -> list[tuple[int, ...]]:
    """Return the answers to questions, without their ends."""
    method = registry.get("component", "damro")
    decoder = method.make(method.config.model_validate(settings))
    condition = Condition(tuple(map(tuple, batch.given["question"].tolist())), {"image": batch.inputs})
    limits = Limits(max_new_tokens=longest, stop_tokens=frozenset({model.end}))
    sources = seeding.generators(0, "damro", [(number,) for number in range(len(batch))])
    texts = generate(decoder, model, condition, limits, sources)
    return [tuple(token for token in one.tokens if token != model.end) for one in texts]


def answer_rows(model: Any, batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield right answers of each way, and what it says of absent and of present digits."""
    for label, settings in _WAYS.items():
        for kind, batch in batches.items():
            said = written(model, batch, **settings)
            true = [tuple(answer[(answer >= 0) & (answer != model.end)].tolist()) for answer in batch.labels]
            right = [one == other for one, other in zip(said, true, strict=True)]
            yield row(f"right, {kind}", label, wilson(sum(right), len(right)))
            if kind == "presence":
                yield from _presence_rows(label, said, true)


def _presence_rows(label: str, said: Sequence[tuple[int, ...]], true: Sequence[tuple[int, ...]]) -> Iterator[Row]:
    yes = (grids.WORDS.of("yes"),)
    of_absent = [one == yes for one, other in zip(said, true, strict=True) if other != yes]
    of_present = [one == yes for one, other in zip(said, true, strict=True) if other == yes]
    yield row("presence: yes to absent digits", label, wilson(sum(of_absent), len(of_absent)))
    yield row("presence: yes in all", label, wilson(sum(of_absent) + sum(of_present), len(said)))
    hits, alarms = sum(of_present), sum(of_absent)
    missed = len(of_present) - hits
    yield measured("presence: F1", label, [2 * hits / max(1, 2 * hits + alarms + missed)], "", "")


class _Watching(VisualReducer):
    """Keeps what the prompt's last token attends to of each patch, mean over layers and heads."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []

    def after_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        place = before.last
        self.rows.append(layer.attention(before, slice(place, place + 1)).mean(1)[:, 0, before.visual])
        return after


@torch.no_grad()
def outlier_rows(model: Any, batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield whether there are outliers, and whether the language model looks at the same patches."""
    batch, patches = batches["position"], model.visual.patches
    chosen = chosen_patches(model, batch)
    stream = model.vision().embed(batch.inputs)
    places = torch.zeros(stream.shape[:2], dtype=torch.long)
    visual_stream = Stream(stream, places, torch.arange(patches).expand(len(batch), -1), front=1)
    for number in range(model.visual.feature_layer):
        visual_stream = visual_stream.with_(model.vision().run(number, visual_stream))
    attention = model.vision().view(model.visual.feature_layer).attention(visual_stream, slice(0, 1)).mean(1)[:, 0, 1:]
    attention = attention / attention.sum(1, keepdim=True)
    top = attention.topk(_K).values.sum(1).tolist()
    yield with_interval("class token: share of attention on the top two of 64", "mean over heads", top, "share")
    empty = ~bright_patches(model, batch)
    yield with_interval("outliers in empty cells", "top two", empty.gather(1, chosen).float().mean(1).tolist(), "share")
    yield with_interval("patches in empty cells", "all 64", empty.float().mean(1).tolist(), "share")
    watching = _Watching()
    with acting(model, watching):
        scores = torch.cat([model(some.inputs, **some.given)[:, 0] for some in batch.split(250)])
    layers = model.visual.layers
    seen = torch.cat(
        [torch.stack(watching.rows[at : at + layers]).mean(0) for at in range(0, len(watching.rows), layers)]
    )
    both = (seen.topk(_K).indices[:, :, None] == chosen[:, None]).any(2).float().mean(1)
    right = scores.argmax(-1) == batch.labels[:, 0]
    note = f"of {_K}; by chance {_K / patches:.3f}"
    yield with_interval(
        "overlap of encoder's and decoder's top two, right answers", note, both[right].tolist(), "share"
    )
    yield with_interval("overlap of encoder's and decoder's top two, wrong ones", note, both[~right].tolist(), "share")


def chosen_patches(model: Any, batch: Batch) -> Tensor:
    """Return the outliers of each image, (N, 2)."""
    method = registry.get("component", "damro")
    return method.make(method.config()).outliers(model, batch.inputs, batch.given["question"])


def bright_patches(model: Any, batch: Batch) -> Tensor:
    """Return which patches lie in a cell with a digit, (N, 64)."""
    tiles = batch.inputs.unfold(2, 14, 14).unfold(3, 14, 14).amax((4, 5)).flatten(1) > 0.1  # noqa: PLR2004 - noise
    return tiles[:, model.visual.cells_of_patches(grids.CELLS)]


def listing_rows(model: Any, batch: Batch) -> Iterator[Row]:
    """Yield what lists of all digits name that is not there, and how much of what is there."""
    true = [answer[(answer >= 0) & (answer != model.end)].tolist() for answer in batch.labels]
    for label, settings in _WAYS.items():
        said = written(model, batch, batch.labels.shape[1] + 1, **settings)
        wrong, named, present, covered = 0, 0, 0, 0
        bad = list[bool]()
        for one, other in zip(said, true, strict=True):
            hallucinated = [token for token in one if token not in other]
            wrong, named = wrong + len(hallucinated), named + len(one)
            present, covered = present + len(set(other)), covered + len(set(other) & set(one))
            bad.append(bool(hallucinated))
        yield row("list: CHAIR_i, named and not there", label, wilson(wrong, named))
        yield row("list: CHAIR_s, answers that name one", label, wilson(sum(bad), len(bad)))
        yield row("list: digits that are named", label, wilson(covered, present))
        exact = [list(one) == other for one, other in zip(said, true, strict=True)]
        yield row("list: right as a whole", label, wilson(sum(exact), len(exact)))


def cost_rows(model: Any, batch: Batch) -> Iterator[Row]:
    """Yield seconds of an answer beside plain decoding's, in turn."""
    ratios = list[float]()
    for number in range(ROUNDS + 2):
        some = batch.taken(torch.tensor([number]))
        pair: dict[float, float] = {}
        for strength in (0.0, 2.0) if number % 2 else (2.0, 0.0):
            begin = time.process_time()
            written(model, some, strength=strength)
            pair[strength] = time.process_time() - begin
        ratios.append(pair[2.0] / pair[0.0])
    yield measured("prompt and answer: own seconds / plain's", "alpha 2, one by one", ratios[2:], "times", "")
    some = batch.taken(torch.tensor([0]))
    for name, plain, more in zip(("prompt", "token"), costs(model, some, 0.0), costs(model, some, 2.0), strict=True):
        yield measured(f"{name}: own products / plain's", "2 of 64 outliers", [more / plain], "times", "")


@torch.no_grad()
def costs(model: Any, batch: Batch, strength: float) -> tuple[int, int]:
    """Return the products of reading a prompt, and of writing a token behind the first one."""
    entry = registry.get("component", "damro")
    method = entry.make(entry.config.model_validate({"strength": strength}))
    condition = Condition(tuple(map(tuple, batch.given["question"].tolist())), {"image": batch.inputs})
    context = GenerationContext(tuple(seeding.generators(0, "damro", [(number,) for number in range(len(batch))])))
    prompt = products(lambda: method.step(model, method.start(model, condition, context), context))
    state, _ = method.step(model, method.start(model, condition, context), context)
    return prompt, products(lambda: method.step(model, state, context))


@torch.no_grad()
def side_rows(model: Any, batches: Mapping[Kind, Batch]) -> Iterator[Row]:
    """Yield what the chosen places tell whoever sees them."""
    places: dict[Kind, Tensor] = {
        kind: torch.zeros(len(batch), model.visual.patches, dtype=torch.bool).scatter(
            1, chosen_patches(model, batch), True
        )
        for kind, batch in batches.items()
    }
    yield from rows_of_places("outliers of damro", places, batches)


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    model, count = grids.trained(), QUESTIONS if full else SHORT
    batches: dict[Kind, Batch] = {kind: questions(kind, count, _SEED) for kind in MEASURED}
    return [
        *answer_rows(model, batches),
        *outlier_rows(model, batches),
        *cost_rows(model, batches["position"]),
        *side_rows(model, batches),
        *listing_rows(unfreezing.trained(), questions("list", count, _SEED)),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
