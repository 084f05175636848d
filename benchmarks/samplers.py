"""Heun, Euler and Skip-Tuning at equal numbers of evaluations: how far samples are from test images.

The model is one of `fedsim bench model digits-unet` and `photographs-unet`. Skip-Tuning's rho is chosen for each number
of evaluations on noise of its own, against training images; reported are fresh noise and test images. Every sampler
gets the same noise. Distances are in features of a small classifier and, where its extra is installed, of
EfficientNet-Lite0; these choose rho where images are coloured. ``--pictures FOLDER`` writes samples, and samples above
the training image that is nearest to each; ``--losses`` tells errors of pixels and of features over noise levels.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from scipy.stats import t as student  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._drawn import Features, classifier_features, draw, efficientnet_features, save_pictures  # noqa: E402
from fedsim.bench.denoisers import Denoiser, trained  # noqa: E402
from fedsim.core.skips import scaled_skips, skips_of  # noqa: E402
from fedsim.metrics.sample_distance import sample_distance  # noqa: E402

EVALUATIONS = (4, 5, 9, 19, 39, 40)
GRID = (0.6, 0.7, 0.8, 0.9)
CHOSEN_ON, REPORTED_ON, SEEDS = 100, 200, 3
LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_TESTED = 200
_AGAINST = 2000  # images that samples are compared with, training and test
_COLOURS = 3


class Line(NamedTuple):
    """A sampler at a number of evaluations: its settings, and a distance for each seed and kind of features."""

    sampler: str
    evaluations: int
    rho: str
    distances: Mapping[str, Sequence[float]]
    seconds: float


def candidates() -> list[tuple[float, float]]:
    """Return (bottom, top) of every ramp, of the reversed one, and of constants."""
    ramps = [(ramp, 1.0) for ramp in GRID]
    return [*ramps, (1.0, 0.8), *((ramp, ramp) for ramp in GRID[-2:])]


def settings_of(solver: str, evaluations: int, rho: tuple[float, float] | None = None) -> dict[str, Any]:
    """Return the settings of a sampler that takes so many evaluations with a solver; with rho those of Skip-Tuning."""
    steps = evaluations if solver == "euler" else (evaluations + 1) // 2
    return {"steps": steps} if rho is None else {"steps": steps, "solver": solver, "bottom": rho[0], "top": rho[1]}


class Judge:
    """Draws samples of one model and tells how far they are from its data.

    Args:
        own: the model with its data.
        features: by their names; the first kind chooses rho.
        count: samples of a distance.
    """

    def __init__(self, denoiser: Denoiser, features: Mapping[str, Features], count: int) -> None:
        self.denoiser, self.features, self.count = denoiser, features, count
        self._chosen_by = next(iter(features.values()))
        train, test = denoiser.data.train.inputs, _spread(denoiser.data.test.inputs, _AGAINST)
        self._training = self._chosen_by(_spread(train, _AGAINST))
        self._tests = {name: kind(test) for name, kind in features.items()}

    def choose(self, solver: str, evaluations: int, count: int) -> tuple[float, float]:
        """Return the bottom and top of the ramp whose samples are nearest to training images."""
        scores = {}
        for rho in candidates():
            features_of_samples = self._chosen_by(
                self.draw("skip-tuning", settings_of(solver, evaluations, rho), count, 1000)
            )
            scores[rho] = sample_distance(features_of_samples, self._training)
        return min(scores, key=lambda score: scores[score])

    def line(self, solver: str, evaluations: int, rho: tuple[float, float] | None, seeds: int) -> Line:
        """Measure a solver on fresh noise, with weaker skips where rho is given."""
        settings = settings_of(solver, evaluations, rho)
        sampler = solver if rho is None else "skip-tuning"
        distances: dict[str, list[float]] = {name: [] for name in self.features}
        begin = time.process_time()
        of_seeds = [self.draw(sampler, settings, self.count, seed) for seed in range(seeds)]
        seconds = time.process_time() - begin
        for images in of_seeds:
            for name, kind in self.features.items():
                distances[name].append(sample_distance(kind(images), self._tests[name]))
        ramps = "" if rho is None else f"{rho[0]:g} to {rho[1]:g}"
        return Line(f"{sampler}, {solver}" if rho else solver, evaluations, ramps, distances, seconds)

    def draw(self, sampler: str, settings: Mapping[str, Any], count: int, seed: int) -> Tensor:
        """Return samples."""
        return draw(self.denoiser.model, sampler, settings, self.denoiser.data.spec, count, seed)

    def floor(self) -> dict[str, float]:
        """Return the distance of as many training images, which no sampler has to beat."""
        images = _spread(self.denoiser.data.train.inputs, self.count)
        return {name: sample_distance(kind(images), self._tests[name]) for name, kind in self.features.items()}


def _spread(images: Tensor, count: int) -> Tensor:
    """Return so many images, evenly spread over a set that may be sorted."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]


def solvers_of(evaluations: int) -> tuple[str, ...]:
    """Return the solvers that can take so many evaluations: Heun takes odd numbers."""
    return ("euler", "heun") if evaluations % 2 else ("euler",)


@torch.no_grad()
def losses(denoiser: Denoiser, features: Features, rho: float, count: int) -> list[tuple[float, float, float]]:
    """Return level and mean squared error of pixels and features of denoised test images, with skips times rho."""
    images = denoiser.data.test.inputs[:count]
    truth, of_levels = features(images), []
    for level in LEVELS:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        with scaled_skips(denoiser.model, lambda _number, _count: rho):
            answer = denoiser.model(
                images + level * noise, torch.full((len(images),), level), denoiser.data.test.labels[:count]
            )
        pixels = float((answer - images).square().mean())
        of_levels.append((level, pixels, float((features(answer) - truth).square().mean())))
    return of_levels


def interval(values: Sequence[float]) -> str:
    """Return a mean and its 95 % interval over seeds, by Student's law."""
    mean = statistics.mean(values)
    if len(values) < 2:  # noqa: PLR2004 - one has no spread
        return f"{mean:.2f}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits-unet")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    parser.add_argument("--count", type=int, default=REPORTED_ON, help="samples of a distance")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen = parser.parse_args()
    denoiser = trained(chosen.model)
    features = {"own classifier": classifier_features(denoiser.data, chosen.model)}
    if chosen.losses:
        _print_losses(denoiser, features["own classifier"])
        return
    if chosen.pictures:
        _draw_pictures(denoiser, chosen.model, chosen.pictures)
        return
    wide = efficientnet_features(denoiser.data.spec)
    others: dict[str, Features] = {"EfficientNet-Lite0": wide} if wide else {}
    is_coloured = denoiser.data.spec.shape[0] == _COLOURS
    judge = Judge(denoiser, {**others, **features} if is_coloured else {**features, **others}, chosen.count)
    print(
        f"{len(skips_of(denoiser.model))} skips; n = {chosen.count} samples, {chosen.seeds} seeds; "
        f"floor {judge.floor()}"
    )
    print(f"| evaluations | sampler | rho | {' | '.join(judge.features)} | processor seconds |")
    print("|---|---|---|" + "---|" * (len(judge.features) + 1))
    for count in chosen.evaluations:
        for solver in solvers_of(count):
            for rho in (None, judge.choose(solver, count, CHOSEN_ON)):
                line = judge.line(solver, count, rho, chosen.seeds)
                cells = " | ".join(interval(values) for values in line.distances.values())
                print(f"| {count} | {line.sampler} | {line.rho} | {cells} | {line.seconds:.0f} |", flush=True)


def _print_losses(denoiser: Denoiser, features: Features) -> None:
    print("| rho | level | pixels | over rho = 1 | features | over rho = 1 |")
    print("|---|---|---|---|---|---|")
    plain = losses(denoiser, features, 1.0, _TESTED)
    for rho in (0.9, 0.8, 0.6):
        for (level, pixels, far), (_, was, before) in zip(losses(denoiser, features, rho, _TESTED), plain, strict=True):
            print(f"| {rho} | {level} | {pixels:.4f} | {pixels / was:.3f} | {far:.4f} | {far / before:.3f} |")


def _draw_pictures(denoiser: Denoiser, name: str, folder: Path) -> None:
    judge = Judge(denoiser, {"pixels": lambda images: images.flatten(1)}, 20)
    for count in (9, 19):
        rows = [
            judge.draw("euler", settings_of("euler", count), 20, 0),
            judge.draw("heun", settings_of("heun", count), 20, 0),
            judge.draw("skip-tuning", settings_of("euler", count, (0.8, 1.0)), 20, 0),
        ]
        save_pictures(rows, denoiser.data.spec, folder / f"{name}-{count}.png")
    samples, train = judge.draw("heun", settings_of("heun", 39), 20, 0), denoiser.data.train.inputs
    near = torch.cdist(samples.flatten(1), train.flatten(1)).argmin(1)
    save_pictures([samples, train[near]], denoiser.data.spec, folder / f"{name}-nearest.png")


if __name__ == "__main__":
    main()
