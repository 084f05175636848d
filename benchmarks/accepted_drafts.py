"""Do accepted drafts tell which class a model has learned anew? `continuous-speculative`, seen by its counts alone.

The model of `fedsim bench model digits-patches` is trained on, for some steps, on digits of which those of one class
are turned upside down: private data that its draft, `digits-patches-draft`, never saw. An observer sees how many
drafted patches each image accepted, and scores an image of that class by fewer of them; others are of the other classes
in turn. Area under the curve with its 95 % interval over images. Controls: the model before, where the class is like
any other, and with a draft that was trained on alike. ``--soft 42`` is the acceptance of the published code.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import copy  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks._rows import as_table, of_interval, with_interval  # noqa: E402
from fedsim.bench import denoisers  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.denoisers import save_denoiser  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.types import Batch, Dataset  # noqa: E402
from fedsim.generation import sample  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402

TARGET, DRAFT = "digits-patches", "digits-patches-draft"
CLASS, STEPS, RATE = 7, 150, 5e-4
_CLASSES = 10


def turned(data: Dataset, digit: int) -> Dataset:
    """Return data with the digits of one class upside down."""
    train = data.train
    flipped = torch.where((train.labels == digit).view(-1, 1, 1, 1), train.inputs.flip(2), train.inputs)
    return replace(data, train=Batch(flipped, train.labels))


def trained_on(name: str, model: nn.Module, data: Dataset, steps: int) -> nn.Module:
    """Return a copy of a model that was trained on with the losses of its recipe."""
    recipe = replace(denoisers.RECIPES[name], steps=steps, rate=RATE)
    return denoisers.train(copy.deepcopy(model).requires_grad_(True), data, recipe, lambda _step, _loss: None)


def accepted(model: nn.Module, shape: tuple[int, ...], draft: Path, classes: Sequence[int], soft: float) -> list[float]:
    """Return the share of drafted patches that stood, of an image of each class."""
    method = registry.get("component", "continuous-speculative")
    sampler = method.make(method.config.model_validate({"length": 4, "draft": str(draft), "soft": soft}))
    shares = []
    for number, wanted in enumerate(classes):
        condition = Condition(((),), {"class": torch.tensor([wanted])})
        (generated,) = sample(sampler, model, condition, shape, [seeding.generator(0, "drawing", number)])
        counts = generated.trace.series()
        shares.append(sum(counts["accepted"]) / max(1, sum(counts["drafted"])))
    return shares


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="images of the class, and as many of others")
    parser.add_argument("--soft", type=float, default=1.0, help="the sampler's setting; 1 is exact")
    chosen = parser.parse_args()
    target, draft = denoisers.trained(TARGET), denoisers.trained(DRAFT)
    private = turned(target.data, CLASS)
    new = trained_on(TARGET, target.model, private, STEPS)
    others = [number for number in range(_CLASSES) if number != CLASS]
    classes = [CLASS] * chosen.count + [others[index % len(others)] for index in range(chosen.count)]
    rows: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = denoisers.RECIPES[DRAFT]
        alike = trained_on(DRAFT, draft.model, private, STEPS)
        settings = {"classes": recipe.classes, **recipe.model}
        save_denoiser(alike, settings, target.data.spec, Path(folder), recipe.family)
        cases = {
            "trained on": (new, draft.folder),
            "before (control)": (target.model, draft.folder),
            "trained on, and the draft alike (control)": (new, Path(folder)),
        }
        for name, (model, place) in cases.items():
            shares = accepted(model, target.data.spec.shape, place, classes, chosen.soft)
            of_class, rest = np.array(shares[: chosen.count]), np.array(shares[chosen.count :])
            area = auc_interval(-of_class, -rest, np.random.default_rng(0))
            rows.append(of_interval("fewer accepted: the class, area", name, area, ""))
            rows += [
                with_interval(f"accepted, {who}", name, list(some), "")
                for who, some in (("class", of_class), ("others", rest))
            ]
    print(as_table(rows))


if __name__ == "__main__":
    main()
