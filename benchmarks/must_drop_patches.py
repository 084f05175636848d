"""What comes back of patches that MustDrop keeps, drops, or merges into one token, from a client's gradient.

Clients send the gradient of one image and its question to the trained tiny VLM, whose encoder they train too.
`closed-form-vit` solves for the image, knowing question and answer; the error is taken of the patches that the last
layer reads, of those that were dropped, and of those that were merged with their neighbours behind the encoder's first
layer, by what became of the merged token. A PSNR is of the mean error over a client's patches of a group; clients
without such patches are not counted. Arms: nothing merged (control), most blank windows merged, and every window.
Beside them how many windows are alike enough at which threshold, and how many questions are answered right where
windows are merged and nothing is dropped. Without --full 10 clients an arm, and 100 questions of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import math  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks.frozen_encoder import sent_by  # noqa: E402
from benchmarks.inferred_questions import GRANTED, world_of  # noqa: E402
from benchmarks.visual_tokens import Contender, row  # noqa: E402
from fedsim.bench import grids  # noqa: E402
from fedsim.bench.grid_accuracy import MEASURED, questions, right_answers  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.core.visual import visual_passes  # noqa: E402
from fedsim.core.visual.patches import patch_errors  # noqa: E402
from fedsim.data._grid_words import Kind  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402

CLIENTS, SHORT = 40, 10
QUESTIONS, FEW = 1000, 100
LIKENESSES = (0.8, 0.5, 0.4, 0.3, 0.2, -1.0)
_SEED = 3
WINDOW = 2
_SETTINGS = {"name": "must-drop", "window": WINDOW, "overall": 0.02, "single": 0.02, "recount": False}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "nothing merged": {**_SETTINGS, "likeness": 2.0},
    "likeness 0.3": {**_SETTINGS, "likeness": 0.3},
    "every window merged": {**_SETTINGS, "likeness": -1.0},
}
GROUPS = ("kept", "dropped", "merged, then kept", "merged, then dropped")


def fates(first: Tensor, last: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Return the number in GROUPS of each patch of an image, (N,).

    Args:
        first: patches that the first layer of the language model read; of a merged window, its first one (n,).
        last: the same of the last layer.
        grid: patches down and across.
        side: of a window.
    """
    places = torch.arange(grid[0] * grid[1])
    windows = (places // grid[1] // side) * (grid[1] // side) + places % grid[1] // side
    there, left = torch.isin(places, first), torch.isin(places, last)
    is_merged = torch.isin(windows, windows[~there])
    is_kept = left.where(~is_merged, torch.isin(windows, windows[left & is_merged]))
    return 2 * is_merged.long() + (~is_kept).long()


def solved(world: Any, client: int) -> tuple[dict[str, float], dict[str, int], float]:
    """Return the PSNR of each group of a client's patches, how many there are, and the solver's condition number."""
    victim, method = sent_by(world, client), registry.get("attack", "closed-form-vit")
    guess = method.make(method.config())(observe(victim, GRANTED), seeding.generator(0, "attack"))
    (batch,) = victim.truth.batches
    model = world.models.new().eval()
    model.load_state_dict(dict(victim.entry.received))
    with torch.no_grad(), visual_passes(model) as passes:
        model(batch.inputs, **batch.given)
    fate = fates(passes[0].patches[0][0], passes[0].patches[-1][0], model.visual.grid, WINDOW)
    errors = patch_errors(guess.inputs, batch.inputs, model.visual.grid)[0].double()
    there = [number for number in range(len(GROUPS)) if bool((fate == number).any())]
    psnrs = {GROUPS[number]: -10 * math.log10(max(float(errors[fate == number].mean()), 1e-30)) for number in there}
    return psnrs, {GROUPS[number]: int((fate == number).sum()) for number in there}, guess.facts["condition number"]


def arm_rows(label: str, clients: int) -> Iterator[Row]:
    """Yield how many patches of each group there are, and how well they are known."""
    world = world_of(ARMS[label], is_trained=True, clients=clients)
    outcomes = [solved(world, client) for client in range(clients)]
    for group in GROUPS:
        counts = [float(outcome[1].get(group, 0)) for outcome in outcomes]
        yield measured(f"{group}: patches of 64", label, counts, "", "", sum(counts) / clients)
        psnrs = [outcome[0][group] for outcome in outcomes if group in outcome[0]]
        if psnrs:
            yield measured(f"{group}: PSNR", label, psnrs, "dB", "")
    yield measured("condition number", label, [outcome[2] for outcome in outcomes], "", "")


def merging_rows(count: int) -> Iterator[Row]:
    """Yield how many windows are merged, and right answers, where nothing is dropped."""
    batches: dict[Kind, Batch] = {kind: questions(kind, count, _SEED) for kind in MEASURED}
    for likeness in LIKENESSES:
        settings = {"window": WINDOW, "likeness": likeness, "overall": 0.0, "single": 0.0, "recount": False}
        (model,), label = Contender("", "must-drop", settings).models(grids.trained()), f"likeness {likeness:g}"
        for kind, batch in batches.items():
            with visual_passes(model) as passes:
                right = right_answers(model, batch)
            yield row(f"right, {kind}", label, wilson(int(right.sum()), len(right)))
            left = [tokens for one in passes for tokens in one.visual[0]]
            merged = [(model.visual.patches - tokens) / (WINDOW**2 - 1) for tokens in left]
            yield measured(f"windows merged of 16, {kind}", label, merged, "", "", sum(merged) / len(merged))


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    grids.trained()
    solved_rows = [one for label in ARMS for one in arm_rows(label, CLIENTS if full else SHORT)]
    return [*solved_rows, *merging_rows(QUESTIONS if full else FEW)]


if __name__ == "__main__":
    main(measure, __doc__ or "")
