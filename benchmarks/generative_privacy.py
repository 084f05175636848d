"""What a denoising client's step, and a trained denoiser, give away.

``--part inversion``: digits from one step of an untrained denoiser on one image, at several noise levels, by
`denoiser-inversion`: with level and noise told, and searched. ``--part members``: which digits the denoiser of `fedsim
bench model digits-unet` was trained on, by its loss at single noise levels. ``--part prior``: digits from the gradient
of a classifier under noise and pruning, by `learned-prior` beside `inverting-gradients`, with the public image that is
nearest to each guess as the control.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from benchmarks._denoising_client import client_step, observed  # noqa: E402
from fedsim.bench.denoisers import RECIPES, data_of, task_of, trained  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Attack  # noqa: E402
from fedsim.core.types import Batch, Config, Dataset, Observation  # noqa: E402
from fedsim.metrics.image import psnr, to_pixels  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402
from fedsim.metrics.statistics import mean_interval  # noqa: E402

LEVELS = (0.3, 1.0)
MEMBER_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
TOLD, SEARCHED, MATCHED = 120, 600, 250
SMALL = {"width": 8, "blocks": 1}


class Guess(NamedTuple):
    """How near a guess is to the image, in dB, and what the control says.

    Attributes:
        guess: of the guess to the image.
        control: of the public image that is nearest to the guess, to the image.
    """

    guess: float
    control: float


def invert(data: Dataset, level: float, number: int, *, told: bool, iterations: int) -> tuple[float, float]:
    """Return PSNR of the image, and the level found over the true one, of one step."""
    model = _model("edm-unet", SMALL, data, 0)
    batch = data.test.taken(torch.tensor([number]))
    own = client_step(model, data.spec, batch, number, level=level, told=told)
    method = _attack("denoiser-inversion", max_iterations=iterations, schedule="cosine")
    found = method(own.observation, seeding.generator(number, "attack"))
    close = _close(found.inputs, batch.inputs, data)
    return close, found.facts.get("noise level found, of the first example", level) / level


@torch.no_grad()
def member_scores(level: float, count: int, draws: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return minus the loss at a level of images that the denoiser was trained on, and of others."""
    own = trained("digits-unet")
    task = task_of(RECIPES["digits-unet"])
    found = []
    for images in (own.data.train, own.data.test):
        part, source = images.taken(torch.arange(count)), torch.Generator().manual_seed(1)
        total = torch.zeros(count)
        for _ in range(draws):
            drawn = {**task.drawn(part, source), "task.level": torch.full((count,), level)}
            drawn["task.unlabelled"] = torch.zeros(count, dtype=torch.bool)
            total -= task.losses(*task.answer(own.model, part, drawn))
        found.append((total / draws).numpy())
    return found[0], found[1]


def match(attack: str, data: Dataset, change: Callable[[Tensor, torch.Generator], Tensor], number: int) -> Guess:
    """Attack the gradient of a classifier on one test image after a change of every tensor."""
    model = _model("convnet", {"dropout": 0.0, "width": 8}, data, 1)
    batch = data.test.taken(torch.tensor([number]))
    source = seeding.generator(number, "changes")
    observation = _observe_classifier(model, data, batch, change, source)
    settings: dict[str, Any] = {
        "max_iterations": MATCHED,
        "schedule": "constant" if attack == "learned-prior" else "cosine",
    }
    found = _attack(attack, **settings)(observation, seeding.generator(number, "attack")).inputs
    public = data.train.inputs
    nearest = public[(public - found).flatten(1).square().sum(1).argmin()][None]
    return Guess(_close(found, batch.inputs, data), _close(nearest, batch.inputs, data))


def nearest_public(data: Dataset, number: int) -> float:
    """Return PSNR of the public image that is nearest to a test image: what a look-up could at best return."""
    image, public = data.test.inputs[number], data.train.inputs
    best = public[(public - image).flatten(1).square().sum(1).argmin()][None]
    return _close(best, image[None], data)


def unchanged(tensor: Tensor, _generator: torch.Generator) -> Tensor:
    """Return a tensor as it is."""
    return tensor


def noisy(share: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return the change that adds Gaussian noise of a share of a tensor's root mean square."""

    def change(tensor: Tensor, generator: torch.Generator) -> Tensor:
        size = share * tensor.square().mean().sqrt()
        return tensor + size * torch.randn(tensor.shape, generator=generator)

    return change


def pruned(share: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return the change that keeps the largest entries of a tensor alone."""

    def change(tensor: Tensor, _generator: torch.Generator) -> Tensor:
        keep = max(1, round((1 - share) * tensor.numel()))
        bound = tensor.abs().flatten().topk(keep).values[-1]
        return tensor * (tensor.abs() >= bound)

    return change


CHANGES: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": unchanged,
    "noise, 0.1 of each tensor": noisy(0.1),
    "pruning 99 %": pruned(0.99),
}


def _observe_classifier(
    model: torch.nn.Module,
    data: Dataset,
    batch: Batch,
    change: Callable[[Tensor, torch.Generator], Tensor],
    generator: torch.Generator,
) -> Observation:
    task = registry.get("task", "classification").make(Config()).named("classification")
    loss = cross_entropy(model(batch.inputs), batch.labels)
    names = [name for name, _ in model.named_parameters()]
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    tensors = {name: change(slope, generator) for name, slope in zip(names, slopes, strict=True)}
    own = observed(model, data.spec, batch, tensors, task)
    return replace(own, loss=cross_entropy)


def _model(family: str, settings: Mapping[str, Any], data: Dataset, seed: int) -> torch.nn.Module:
    method = registry.get("model", family)
    with seeding.isolate_randomness(seed):
        return method.make(method.config.model_validate(dict(settings)), data.spec).train()


def _attack(name: str, **settings: Any) -> Attack[Any]:
    method = registry.get("attack", name)
    return method.make(method.config.model_validate(settings)).named(name)


def _close(guess: Tensor, image: Tensor, data: Dataset) -> float:
    return float(psnr(to_pixels(guess, data.spec), to_pixels(image, data.spec)))


def _told(values: Sequence[float], digits: int = 1) -> str:
    found = mean_interval([[own] for own in values], np.random.default_rng(0))
    if found.low is None or found.high is None:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _print_inversion(count: int) -> None:
    data = data_of(RECIPES["digits-unet"])
    print(f"n = {count} digits; {TOLD} iterations told, {SEARCHED} searched")
    print("| level | told, dB | searched, dB | level found over true, median |")
    print("|---|---|---|---|")
    for level in LEVELS:
        told = [invert(data, level, own, told=True, iterations=TOLD)[0] for own in range(count)]
        searched = [invert(data, level, own, told=False, iterations=SEARCHED) for own in range(count)]
        ratio = statistics.median(own[1] for own in searched)
        cells = (_told(told), _told([own[0] for own in searched]), f"{ratio:.2f}")
        print(f"| {level} | {' | '.join(cells)} |", flush=True)


def _print_members(count: int) -> None:
    print(f"n = {count} training and {count} test digits, 4 draws")
    print("| level | AUC |")
    print("|---|---|")
    for level in MEMBER_LEVELS:
        members, others = member_scores(level, count)
        own = auc_interval(members, others, np.random.default_rng(0), 0.95)
        print(f"| {level} | {own.value:.3f} [{own.low:.3f}, {own.high:.3f}] |", flush=True)


def _print_prior(count: int) -> None:
    data = data_of(RECIPES["digits-unet"])
    best = [nearest_public(data, own) for own in range(count)]
    print(f"n = {count} test digits, {MATCHED} iterations; nearest public image to the truth {_told(best)} dB")
    print("| change | attack | guess, dB | public image nearest to the guess, dB | guess is nearer |")
    print("|---|---|---|---|---|")
    for name, change in CHANGES.items():
        for attack in ("inverting-gradients", "learned-prior"):
            found = [match(attack, data, change, own) for own in range(count)]
            nearer = sum(own.guess > own.control for own in found)
            cells = (_told([own.guess for own in found]), _told([own.control for own in found]), f"{nearer} of {count}")
            print(f"| {name} | {attack} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("inversion", "members", "prior"), default="inversion")
    parser.add_argument("--count", type=int, default=4)
    chosen = parser.parse_args()
    parts = {"inversion": _print_inversion, "members": _print_members, "prior": _print_prior}
    parts[chosen.part](chosen.count)


if __name__ == "__main__":
    main()
