"""A denoiser of public images behind gradient matching, where exact attacks end: noise, pruning and DP-SGD.

Clients of a LeNet hold one digit each that the denoiser of `fedsim bench model` never saw, and send its gradient at
fresh weights. The attacker knows labels and defenses. `learned-prior` stands beside the same search without a prior,
with total variation (the better of two weights, which the attacker could not know), and beside `map-estimate` where a
defense says the law of its noise; DP-SGD of one example is told to `map-estimate` as the clipping and the noise that it
is. PSNR in dB, means with 95 % intervals over images.

A search has converged where its guess explains the gradient as the image does, up to 1 % of what a grey image leaves
unexplained; others are undecided. The control: the public image that is nearest to the guess of `learned-prior`, which
is what a look-up would return.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row, share
from benchmarks._victims import KNOWN, Victim, make_attack, victims_of
from fedsim.bench.denoisers import RECIPES, data_of, load_trained_denoiser
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import for_scenarios
from fedsim.core.types import Dataset, MethodDescription, Observation
from fedsim.core.types.effects import AddedNoise, Clipped, ClippedParts, PrivateNoise, Sparsified
from fedsim.metrics.image import psnr, to_pixels

CLOSE = 0.01  # of what a grey image leaves unexplained
WEIGHTS = (1e-3, 1e-2)  # of total variation
_DP_CLIP = 1.0
_ITERATIONS = 500


_DENOISER = "digits-unet"
MODEL: Mapping[str, Any] = {"name": "benchmarks._frontier_models:lenet", "activation": "relu"}


def _dp_sgd(multiplier: float) -> Sequence[Mapping[str, Any]]:
    return ({"name": "dp-sgd", "clip": _DP_CLIP, "noise_multiplier": multiplier},)


CHANGES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "nothing": (),
    "noise of 0.1": ({"name": "gradient-noise", "scale": 0.1, "relative": True},),
    "pruning of 99 %": ({"name": "pruning", "rate": 0.99},),
    **{f"DP-SGD, multiplier {multiplier:g}": _dp_sgd(multiplier) for multiplier in (0.01, 1.0)},
}


@for_scenarios
def unseen(recipe: str, count: int) -> Dataset:
    """Return a data set whose training images are test images of a recipe, evenly spread over them.

    Args:
        recipe: name of the denoiser.
        count: images.
    """
    data = data_of(RECIPES[recipe])
    chosen = torch.arange(count) * (len(data.test) // count)
    return replace(data, train=data.test.select(chosen), users=None)


class Guesses(NamedTuple):
    """What an attack came to on every image.

    Attributes:
        close: PSNR of the guesses.
        images: the guesses.
        is_converged: whether a guess explains the gradient as well as the image does.
    """

    close: list[float]
    images: list[Tensor]
    is_converged: list[bool]

    @property
    def mean(self) -> float:
        """The mean PSNR."""
        return sum(self.close) / len(self.close)


def misfit(observation: Observation, inputs: Tensor) -> float:
    """Return 1 - cosine of the gradient of images and the observed one, on what was sent."""
    assert observation.labels is not None
    names, parameters = zip(*observation.model.named_parameters(), strict=True)
    loss = observation.loss(observation.model(inputs), observation.labels)
    slopes = torch.autograd.grad(loss, parameters)
    sent = [observation.update.tensors[name] for name in names]
    prunes = bool(observation.effects(Sparsified))
    slope = torch.cat(
        [(one * (seen != 0) if prunes else one).flatten() for one, seen in zip(slopes, sent, strict=True)]
    )
    return 1.0 - float(torch.nn.functional.cosine_similarity(slope, torch.cat([one.flatten() for one in sent]), dim=0))


def attack_all(name: str, victims: Sequence[Victim], settings: Mapping[str, Any]) -> Guesses | None:
    """Attack every victim at once; None where the attack does not apply."""
    attack = make_attack(name, **settings)
    observations = [
        _as_clipping(victim.observation) if name == "map-estimate" else victim.observation for victim in victims
    ]
    sources = [seeding.generator(number, "attack") for number in range(len(victims))]
    try:
        answers = attack.together(observations, sources, [lambda _step: None] * len(victims))
    except NotApplicable:
        return None
    guesses = [guess_of_victim.inputs for guess_of_victim in answers]
    pairs = list(zip(victims, guesses, strict=True))
    return Guesses([_psnr(x, v.batch.inputs, v) for v, x in pairs], guesses, [explains(v, x) for v, x in pairs])


def explains(victim: Victim, guess: Tensor) -> bool:
    """Whether a guess explains the gradient as the image does, up to 1 % of what a grey image leaves unexplained."""
    grey, truth, misfit_of_guess = (
        misfit(victim.observation, x) for x in (torch.zeros_like(guess), victim.batch.inputs, guess)
    )
    return misfit_of_guess <= truth + CLOSE * max(0.0, grey - truth)


def _as_clipping(observation: Observation) -> Observation:
    """Return an observation whose DP-SGD, of one example, is called clipping with noise."""
    clipped, private = observation.effects(ClippedParts), observation.effects(PrivateNoise)
    if not clipped or not private or private[0].multiplier is None:
        return observation
    norm = clipped[0].norm
    effects = (AddedNoise(private[0].law, private[0].multiplier * norm), Clipped(norm))
    return replace(observation, known_methods=(MethodDescription("dp-sgd of one example", effects),))


def settings_of(iterations: int) -> Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]:
    """Return the attacks of each column: the best of them counts."""
    pace = {"max_iterations": iterations, "schedule": "cosine"}
    prior = {
        "max_iterations": iterations,
        "schedule": "constant",
        "denoiser": str(load_trained_denoiser(_DENOISER).folder),
    }
    return {
        "no prior": [("inverting-gradients", {**pace, "priors": []})],
        "total variation": [
            ("inverting-gradients", {**pace, "priors": [{"name": "total-variation", "weight": weight}]})
            for weight in WEIGHTS
        ],
        "map-estimate": [("map-estimate", pace)],
        "learned-prior": [("learned-prior", prior)],
    }


def _psnr(guess: Tensor, image: Tensor, victim: Victim) -> float:
    return float(psnr(to_pixels(guess, victim.spec), to_pixels(image, victim.spec)))


def _nearest(public: Tensor, image: Tensor) -> Tensor:
    return public[(public - image).flatten(1).square().sum(1).argmin()][None]


@experiment("learned-prior", minutes=4, page="attacks/learned-prior")
def learned_prior(budget: Budget) -> Cells:
    """Return a cell for each thing that is done to the gradient; 5 images, in the long version 10."""
    return {change: partial(_rows, change, 10 if budget.full else 5) for change in CHANGES}


def _rows(setting: str, count: int) -> Iterator[Row]:
    data = {"name": "benchmarks.learned_prior:unseen", "recipe": _DENOISER, "count": count}
    knows = (*KNOWN, "labels", "defenses")
    victims = list(victims_of(data, MODEL, count, knows=knows, clients=count, defenses=CHANGES[setting]))
    best: dict[str, Guesses] = {}
    for name, attacks in settings_of(_ITERATIONS).items():
        attempts = [attempt for attack, given in attacks if (attempt := attack_all(attack, victims, given)) is not None]
        if not attempts:
            yield Row(f"PSNR, {name}", setting, 0.0, "dB", n=0, note="does not apply")
            continue
        best[name] = max(attempts, key=lambda attempt: attempt.mean)
        note = f"{sum(best[name].is_converged)} converged"
        yield mean_row(f"PSNR, {name}", setting, best[name].close, "dB")._replace(note=note)
    prior, public = best["learned-prior"], load_trained_denoiser(_DENOISER).data.train.inputs
    looked_up = [_psnr(_nearest(public, x), v.batch.inputs, v) for x, v in zip(prior.images, victims, strict=True)]
    yield mean_row("PSNR, public image nearest to that guess", setting, looked_up, "dB")
    nearer = [float(ours > other) for ours, other in zip(prior.close, looked_up, strict=True)]
    yield share("guess is nearer than that image", setting, nearer)
