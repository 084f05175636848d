"""How good and how fast are the attacks? Exact ones by themselves, those that descend side by side with others.

Beside them: a literal Dropout Inversion Attack (`benchmarks._literal_dia`) and the package breaching in an environment
of its own. Every attack has one torch thread. Seconds are those of the processor; ratios are of runs that alternate.
Rows appear on standard error as they are measured. Without ``--full`` about ten minutes on a quiet core.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks import _breaching_rows, _descent_rows, _exact_rows  # noqa: E402
from benchmarks._rows import Row, as_line, main  # noqa: E402
from benchmarks._watch import Goal  # noqa: E402

Settings = dict[str, Any]

# Settings of dropout-inversion on each model, where the yardstick has the published ones.
TRANSFORMER: Settings = {
    "read_out": True,
    "schedule": "cosine",
    "first_masks": "mean",
    "mask_learning_rate": 0.2,
    "sign": "soft",
    "max_iterations": 300,
}
LENET: Settings = {"sign": "soft", "schedule": "cosine", "total_variation": 1e-2, "max_iterations": 1000}
RESNET: Settings = {"sign": "soft", "schedule": "cosine", "total_variation": 1e-2}
# Settings of inverting-gradients beside breaching.
INVERTING: Settings = {"schedule": "cosine", "sign": "soft", "max_iterations": 400}


def measure(full: bool) -> Sequence[Row]:
    """Return the rows of the short or the long version."""
    rows: list[Row] = []
    for row in _rows(full):
        print(as_line(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def _rows(full: bool) -> Iterator[Row]:
    yield from _exact_rows.single_images()
    yield from _exact_rows.batches()
    yield from _exact_rows.batches_without_dropout()
    yield from _descending(full)
    yield from _beside_breaching(full)


def _descending(full: bool) -> Iterator[Row]:
    passes = 7 if full else 3
    yield from _descent_rows.iterations_of_mlp(passes)
    yield from _descent_rows.iterations_of_transformer(passes)
    victims = 4 if full else 1
    transformer = {"name": "vit-small", "dropout": 0.25}
    good, cap = Goal("mse", 0.01), 2000
    setting = "small ViT, CIFAR-10, p = 0.25, B = 1"
    yield from _descent_rows.time_to_image(setting, transformer, good, TRANSFORMER, victims, cap, ">= 10")
    lenet, alike, cap = {"name": "lenet", "dropout": 0.5}, Goal("ssim", 0.9), 10_000 if full else 3000
    setting = "LeNet, CIFAR-10, p = 0.5, B = 1"
    yield from _descent_rows.time_to_image(setting, lenet, alike, LENET, victims, cap, ">= 5")
    resnet, iterations = {"name": "resnet18", "dropout": 0.5}, 600 if full else 60
    setting = "ResNet-18 with GroupNorm, CIFAR-10, p = 0.5, B = 1"
    yield _descent_rows.ssim_at_equal_time(setting, resnet, RESNET, victims, iterations)
    yield _descent_rows.restarts(passes)


def _beside_breaching(full: bool) -> Iterator[Row]:
    victims, iterations = (3, 2400) if full else (1, 300)
    for name, model in (("MLP without bias", "mlp"), ("small ViT", "vit-small")):
        setting = f"{name}, CIFAR-10, p = 0, B = 1"
        yield from _breaching_rows.beside_breaching(
            setting, {"name": model, "dropout": 0.0}, INVERTING, victims, iterations
        )


if __name__ == "__main__":
    main(measure, __doc__ or "")
