"""Whether rcp's parts tell what they were trained on: membership by each of their losses.

A client trains the parts beside the frozen tiny VLM on few questions, again and again. An attacker who has the trained
parts scores each question by a loss: of the answer, the same less the full model's (calibrated), of the moments of the
states that are mended, and the share of tokens that are read. Areas under the curve between members and as many fresh
questions, with 95 % intervals by bootstrap; 0.5 is chance. Parts that were not trained yet are the control at chance;
all weights of the language model, trained on the same questions, are the control that must succeed. --full has twice
the questions.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import copy  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured, told_apart  # noqa: E402
from fedsim.bench import grids, pruning  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.data._grid_questions import answer_places, ask, draw_kinds  # noqa: E402

MEMBERS, SHORT = 96, 48
STEPS = (100, 400)
_RATE_OF_ALL = 1e-3  # of the control, whose weights are many more
_STEPS_OF_ALL = 100
_RECIPE = pruning.RECIPES["rcp-50"]


class Examples(NamedTuple):
    """Questions about images: normed features (N, P, width), questions and answers (N, T)."""

    features: Tensor
    questions: Tensor
    answers: Tensor

    def taken(self, chosen: Tensor) -> Examples:
        """Return some of them."""
        return Examples(*(column[chosen] for column in self))


def draw_examples(plain: Any, count: int, name: str) -> Examples:
    """Return fresh questions about fresh images of training digits."""
    source = seeding.generator(0, f"membership of rcp, {name}")
    digits, features = pruning.stored_features(plain, count, source)
    grid_questions = ask(digits, grids.WORDS, draw_kinds(count, grids.MIX, source), answer_places(grids.MIX), source)
    return Examples(features, grid_questions.questions, grid_questions.answers)


def with_trained_parts(plain: Any, members: Examples, steps: int) -> Any:
    """Return the model with parts that were trained on some questions alone."""
    model = pruning.with_parts(plain)
    reducer = model.reducers[0]
    model.requires_grad_(False)
    reducer.requires_grad_(True)
    model.eval()
    reducer.train()
    source, recipe = seeding.generator(0, "training rcp on few"), replace(_RECIPE, steps=steps)

    def loss() -> tuple[Tensor, float]:
        batch = members.taken(torch.randint(len(members.features), (pruning.BATCH,), generator=source))
        return pruning.parts_loss(model, plain, *batch, recipe)

    pruning.descend(reducer, recipe, loss, source, lambda _step, _loss, _share: None)
    return model.eval()


def with_all_trained(plain: Any, members: Examples) -> Any:
    """Return a copy of the model whose language model was trained on some questions (control)."""
    model = copy.deepcopy(plain)
    source = seeding.generator(0, "training all on few")
    optimizer = torch.optim.AdamW(model.layers.parameters(), _RATE_OF_ALL)
    for _ in range(_STEPS_OF_ALL):
        batch = members.taken(torch.randint(len(members.features), (pruning.BATCH,), generator=source))
        optimizer.zero_grad()
        scores, _, _ = pruning.read_stored(model, *batch, ())
        F.cross_entropy(scores.flatten(0, 1), batch.answers.flatten()).backward()
        optimizer.step()
    return model


@torch.no_grad()
def signals(model: Any, plain: Any, examples: Examples) -> dict[str, list[float]]:
    """Return the losses of each question, one by one, higher for what looks like a member."""
    behind = tuple(model.reducers[0].repairs) if len(model.reducers) else ()
    scores_by_name: dict[str, list[float]] = {"answer": [], "answer, calibrated": []}
    if behind:
        scores_by_name |= {"moments of mended states": [], "tokens read": []}
    for number in range(len(examples.features)):
        example = examples.taken(torch.tensor([number]))
        scores, mended, share = _read(model, example, behind)
        before, true, _ = _read(plain, example, behind)
        loss, usual = (F.cross_entropy(one.flatten(0, 1), example.answers.flatten()).item() for one in (scores, before))
        scores_by_name["answer"].append(-loss)
        scores_by_name["answer, calibrated"].append(usual - loss)
        if behind:
            gaps = [pruning.moment_gap(one[0], other[0]) for one, other in zip(mended, true, strict=True)]
            scores_by_name["moments of mended states"].append(-torch.stack(gaps).mean().item())
            scores_by_name["tokens read"].append(share)
    return scores_by_name


def _read(model: Any, example: Examples, behind: tuple[str, ...]) -> tuple[Tensor, list[Tensor], float]:
    """Return scores, states, and the share of visual tokens that a layer reads where dropped ones are taken out."""
    counts = list[int]()
    model.listeners.append(lambda streams: counts.extend(one.counts[0] for one in streams))
    scores, states, _ = pruning.read_stored(model, *example, behind)
    model.listeners.pop()
    return scores, states, sum(counts) / (len(counts) * model.visual.patches)


def rows_of(label: str, model: Any, plain: Any, members: Examples, others: Examples) -> Iterator[Row]:
    """Yield the area of each signal."""
    inside, outside = (signals(model, plain, one) for one in (members, others))
    for name, values in inside.items():
        yield told_apart(f"membership by {name}", label, values, outside[name])
    for where, of_signal in (("members", inside), ("others", outside)):
        yield measured(f"loss of the answer, {where}", label, [-one for one in of_signal["answer"]], "nats", "")


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    plain, count = grids.trained(), MEMBERS if full else SHORT
    members, others = (draw_examples(plain, count, name) for name in ("members", "others"))
    untrained = pruning.with_parts(plain).eval()
    rows = list(rows_of(f"{count} members, parts before training (control)", untrained, plain, members, others))
    for steps in STEPS:
        model = with_trained_parts(plain, members, steps)
        rows += rows_of(f"{count} members, parts, {steps} steps", model, plain, members, others)
    model = with_all_trained(plain, members)
    return [*rows, *rows_of(f"{count} members, language model (control)", model, plain, members, others)]


if __name__ == "__main__":
    main(measure, __doc__ or "")
