"""What a denoising client's step, and a trained denoiser, give away.

``--part inversion``: digits from one step of an untrained denoiser on one image, at several noise levels, by
`denoiser-inversion`: with level and noise told, and searched. ``--part members``: which digits the denoiser of `fedsim
bench model digits-unet` was trained on, by its loss at single noise levels.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._denoising_client import client_step  # noqa: E402
from benchmarks._rows import in_words, mean_in_words  # noqa: E402
from fedsim.bench.denoisers import RECIPES, data_of, task_of, trained  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Attack  # noqa: E402
from fedsim.core.types import Dataset  # noqa: E402
from fedsim.metrics.image import psnr, to_pixels  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402

LEVELS = (0.3, 1.0)
MEMBER_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
GRANTED_ITERATIONS, SEARCHED = 400, 600
SMALL = {"width": 8, "blocks": 1}


def invert(data: Dataset, level: float, number: int, *, grants_draws: bool, iterations: int) -> tuple[float, float]:
    """Return PSNR of the image, and the level found over the true one, of one step."""
    model = _model("edm-unet", SMALL, data, 0)
    batch = data.test.taken(torch.tensor([number]))
    client = client_step(model, data.spec, batch, number, level=level, grants_draws=grants_draws)
    method = _attack("denoiser-inversion", max_iterations=iterations, schedule="cosine")
    guess = method(client.observation, seeding.generator(number, "attack"))
    close = _close(guess.inputs, batch.inputs, data)
    return close, guess.facts.get("noise level found, of the first example", level) / level


@torch.no_grad()
def member_scores(level: float, count: int, draws: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return minus the loss at a level of images that the denoiser was trained on, and of others."""
    denoiser = trained("digits-unet")
    task = task_of(RECIPES["digits-unet"])
    scores = []
    for images in (denoiser.data.train, denoiser.data.test):
        part, source = images.taken(torch.arange(count)), torch.Generator().manual_seed(1)
        total = torch.zeros(count)
        for _ in range(draws):
            draws_of_part = {**task.named_draws(part, source), "task.level": torch.full((count,), level)}
            draws_of_part["task.unlabelled"] = torch.zeros(count, dtype=torch.bool)
            total -= task.losses(*task.answer(denoiser.model, part, draws_of_part))
        scores.append((total / draws).numpy())
    return scores[0], scores[1]


def _model(family: str, settings: Mapping[str, Any], data: Dataset, seed: int) -> torch.nn.Module:
    method = registry.get("model", family)
    with seeding.isolate_randomness(seed):
        return method.make(method.config.model_validate(dict(settings)), data.spec).train()


def _attack(name: str, **settings: Any) -> Attack[Any]:
    method = registry.get("attack", name)
    return method.make(method.config.model_validate(settings)).named(name)


def _close(guess: Tensor, image: Tensor, data: Dataset) -> float:
    return float(psnr(to_pixels(guess, data.spec), to_pixels(image, data.spec)))


def _print_inversion(count: int, iterations: Mapping[bool, int]) -> None:
    data = data_of(RECIPES["digits-unet"])
    print(f"n = {count} digits; iterations told {iterations[True]}, searched {iterations[False]}")
    print("| level | told, dB | searched, dB | level found over true, median |")
    print("|---|---|---|---|")
    for level in LEVELS:
        granted, searched = (
            [invert(data, level, number, grants_draws=known, iterations=iterations[known]) for number in range(count)]
            for known in (True, False)
        )
        ratio = statistics.median(pair[1] for pair in searched)
        cells = (
            mean_in_words([pair[0] for pair in granted], 1),
            mean_in_words([pair[0] for pair in searched], 1),
            f"{ratio:.2f}",
        )
        print(f"| {level} | {' | '.join(cells)} |", flush=True)


def _print_members(count: int) -> None:
    print(f"n = {count} training and {count} test digits, 4 draws")
    print("| level | AUC |")
    print("|---|---|")
    for level in MEMBER_LEVELS:
        members, others = member_scores(level, count)
        area = auc_interval(members, others, np.random.default_rng(0), 0.95)
        print(f"| {level} | {in_words(area, 3)} |", flush=True)


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("inversion", "members"), default="inversion")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument(
        "--told", type=int, default=GRANTED_ITERATIONS, help="iterations of an inversion with draws granted"
    )
    parser.add_argument("--searched", type=int, default=SEARCHED, help="iterations of one without")
    chosen = parser.parse_args()
    if chosen.part == "inversion":
        _print_inversion(chosen.count, {True: chosen.told, False: chosen.searched})
        return
    _print_members(chosen.count)


if __name__ == "__main__":
    main()
