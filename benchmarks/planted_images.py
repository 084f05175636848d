"""What a denoiser gives away of images that were planted 0 to 64 times: drawn again, and known by their loss.

Digits of 16 x 16 pixels with canaries, black and white fields, behind them; a small U-Net, trained with the losses of
task `denoising` for 40 passes. Per number of copies: the share of canaries that a sample equals, with Wilson's 95 %
interval; and how well minus the loss at one noise level tells the canaries from those that were left out, the area
under the curve with its 95 % interval over canaries. Canaries of no copies are the control. Also: how many samples are
less than half as far from one training image as from its 50 neighbours, beside test images. ``--pictures FOLDER``
writes samples above the training image that is nearest to each.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._drawn import draw, save_pictures  # noqa: E402
from benchmarks._rows import in_words  # noqa: E402
from fedsim.bench.denoisers import RECIPES, DenoiserRecipe, build, data_of, task_of, train  # noqa: E402
from fedsim.core.types import Batch, Dataset, PlantedImage  # noqa: E402
from fedsim.data._canaries import plant  # noqa: E402
from fedsim.metrics.extraction import copied_share, images_drawn, is_among, nearness  # noqa: E402
from fedsim.metrics.image import to_pixels  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402

REPETITIONS = (0, 1, 2, 4, 8, 16, 32, 64)
LEVELS = (0.1, 0.3, 1.0, 3.0)
DIGITS, PASSES, DRAWS, STEPS, SEED = 150, 40, 8, 10, 63
_OTHERS = 31  # canaries that were left out, beside each
RECIPE = replace(RECIPES["digits-unet"], model={"width": 16, "blocks": 1}, batch=40)


def planted(count: int) -> Dataset:
    """Return digits with so many canaries of each number of copies."""
    data = data_of(RECIPE)
    few = replace(data, train=data.train.taken(torch.arange(DIGITS)), users=None)
    return plant(few, count * len(REPETITIONS), REPETITIONS, SEED)


def recipe_of(data: Dataset, passes: int) -> DenoiserRecipe:
    """Return the recipe that shows every training image so often."""
    return replace(RECIPE, steps=passes * len(data.train) // RECIPE.batch)


def samples_of(model: nn.Module, data: Dataset, count: int) -> Tensor:
    """Return samples of all classes in turn."""
    return draw(model, "heun", {"steps": STEPS}, data.spec, count, SEED)


@torch.no_grad()
def scores(model: nn.Module, canaries: Sequence[PlantedImage], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return minus the loss at a level of canaries, and of those that were left out, under the same noise."""
    task, of_canaries, others = task_of(RECIPE), list[float](), list[float]()
    for number, canary in enumerate(canaries):
        images = torch.cat((canary.image[None], canary.others[:_OTHERS]))
        batch, source = Batch(images, torch.full((len(images),), canary.label)), torch.Generator().manual_seed(number)
        total = torch.zeros(len(images))
        for _ in range(DRAWS):
            shared = task.named_draws(batch.taken(torch.zeros(1, dtype=torch.long)), source)
            draws = {name: tensor.expand(len(images), *tensor.shape[1:]) for name, tensor in shared.items()}
            draws |= {"task.level": torch.full((len(images),), level)}
            draws |= {"task.unlabelled": torch.zeros(len(images), dtype=torch.bool)}
            total -= task.losses(*task.answer(model, batch, draws))
        of_canaries.append(float(total[0]))
        others += total[1:].tolist()
    return np.array(of_canaries), np.array(others)


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="canaries of each number of copies")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--pictures", type=Path)
    chosen = parser.parse_args()
    data, begin = planted(chosen.count), time.process_time()
    recipe = recipe_of(data, chosen.passes)
    model = train(build(recipe, data), data, recipe, lambda _step, _loss: None)
    print(
        f"{len(data.train)} training images, {recipe.steps} steps, {time.process_time() - begin:.0f} processor seconds"
    )
    images = samples_of(model, data, chosen.samples)
    sampled, known = to_pixels(images, data.spec), to_pixels(data.train.inputs, data.spec)
    tests = copied_share(to_pixels(data.test.inputs[: chosen.samples], data.spec), known)
    print(
        f"{chosen.samples} samples: copied {in_words(copied_share(sampled, known), 3)}, "
        f"test images {in_words(tests, 3)}"
    )
    print(f"| copies | n | drawn again | {' | '.join(f'area, level {level:g}' for level in LEVELS)} |")
    print("|---|---|---|" + "---|" * len(LEVELS))
    for copies in REPETITIONS:
        alike = [canary for canary in data.planted_images if len(canary.examples) == copies]
        again = images_drawn([is_among(sampled, to_pixels(canary.image[None], data.spec)[0]) for canary in alike])
        areas = [auc_interval(*scores(model, alike, level), np.random.default_rng(0)) for level in LEVELS]
        print(
            f"| {copies} | {len(alike)} | {in_words(again, 2)} | {' | '.join(in_words(area, 2) for area in areas)} |",
            flush=True,
        )
    if chosen.pictures:
        near = nearness(sampled, known)[1][:20]
        save_pictures([images[:20], data.train.inputs[near]], data.spec, chosen.pictures / "planted-nearest.png")


if __name__ == "__main__":
    main()
