"""Does noise along what a gradient tells hide more than noise on every entry, at equal norm and at equal accuracy?

Noise on every entry is `gradient-noise` with `relative`: its norm is the stated share of the gradient's, as that of
`shaped-noise`. Three attackers: the ideal one, who whitens the noise; the same who takes shaped noise for independent;
and gradient matching (`inverting-gradients`). Control: no noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row
from benchmarks._victims import make_attack, send_update, world_of
from fedsim.core import seeding
from fedsim.experiment import runner
from fedsim.federation.apps import evaluate_model
from fedsim.processes.methods import InProcessRunner, search
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score

_ROUNDING = 6e-8  # of float32, relative to a tensor's root mean square
_PRIOR = 0.14  # variance of a pixel of the digits, in [0, 1]
_ROUNDS = 60
_ITERATIONS = 300
_SIZES = (0.1, 1.0)
_KINDS = ("none", "every entry", "shaped")


def defenses(kind: str, share: float) -> list[dict[str, Any]]:
    """Return the table of a kind of noise whose norm is a share of the gradient's."""
    if kind == "none":
        return []
    if kind == "shaped":
        return [{"name": "shaped-noise", "scale": share}]
    return [{"name": "gradient-noise", "scale": share, "relative": True}]


def federation_of(kind: str, share: float, seed: int, batch: int, rounds: int = 1) -> World:
    """Return a federation of small smooth networks on digits."""
    federation = {"algorithm": "fedsgd", "clients": 8, "batch_size": batch, "rounds": rounds, "evaluate_every": 1000}
    return world_of(
        {
            "seed": seed,
            "data": {"name": "digits"},
            "model": {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.0},
            "federation": federation,
            "aggregation": {"name": "mean", "optimizer": {"name": "sgd", "learning_rate": 0.3}},
            "defenses": defenses(kind, share),
        }
    )


def derivative(world: World) -> tuple[Tensor, Tensor]:
    """Return J (P, n) of a client's clean gradient by one image in [0, 1], and that gradient (P,), both in float64."""
    model = world.models.load_weights(world.models.first_weights).double()
    (batch,) = tuple(world.data.batches(1, 0))
    std = torch.tensor(world.data.dataset.spec.std, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def gradient(pixels: Tensor) -> Tensor:
        def loss(weights: dict[str, Tensor]) -> Tensor:
            outputs = torch.func.functional_call(model, weights, pixels / std.view(-1, 1, 1) + offset)
            return torch.nn.functional.cross_entropy(outputs, batch.labels)

        return torch.cat([one.flatten() for one in torch.func.grad(loss)(parameters).values()])

    pixels = batch.inputs.double() * std.view(-1, 1, 1)
    offset = batch.inputs.double() - pixels / std.view(-1, 1, 1)
    whole = torch.func.jacrev(gradient)(pixels).flatten(1)
    derivatives = whole.detach(), gradient(pixels).detach()
    model.float()
    return derivatives


def errors(jacobian: Tensor, gradient: Tensor, sizes: list[int], share: float) -> dict[str, float]:
    """Return the mean squared error per pixel of each attacker, to first order.

    Args:
        jacobian: J (P, n).
        gradient: (P,).
        sizes: entries of each tensor, in order.
        share: norm of the noise over that of the gradient.
    """
    inputs = jacobian.shape[1]
    squares = torch.cat([part.square().mean().expand(len(part)) for part in gradient.split(sizes)])
    floor, every = _ROUNDING**2 * squares, share**2 * squares
    prior = torch.eye(inputs, dtype=torch.float64) / _PRIOR
    level = share**2 * gradient.square().sum() / jacobian.square().sum()  # of J w, whose covariance is J J'
    whitened = jacobian / (every + floor).sqrt()[:, None]
    naive = torch.linalg.solve(whitened.T @ whitened + prior, (jacobian / (every + floor)[:, None]).T)  # (n, P)
    bias = torch.eye(inputs, dtype=torch.float64) - naive @ jacobian
    unaware = _PRIOR * bias.square().sum() + level * (naive @ jacobian).square().sum()
    # With covariance level J J' + floor, J' S^-1 J = (level + (J' F^-1 J)^-1)^-1, F the floor.
    exact = jacobian / floor.sqrt()[:, None]
    precision = torch.linalg.pinv(exact.T @ exact, hermitian=True) + level * torch.eye(inputs, dtype=torch.float64)
    return {
        "none": _mean(torch.linalg.inv(exact.T @ exact + prior)),
        "every entry": _mean(torch.linalg.inv(whitened.T @ whitened + prior)),
        "shaped, taken for independent": float(unaware) / inputs,
        "shaped": _mean(torch.linalg.inv(torch.linalg.inv(precision) + prior)),
    }


def _mean(covariance: Tensor) -> float:
    return float(covariance.trace()) / len(covariance)


def matching_psnr(kind: str, share: float, seed: int) -> float:
    """Return the PSNR of gradient matching on one image."""
    victim = send_update(federation_of(kind, share, seed, 1))
    attack = make_attack("inverting-gradients", max_iterations=_ITERATIONS)
    seen = observe(victim, ("labels", "batch-size", "input-statistics"))
    guesses = search(InProcessRunner(attack), [seen], [seeding.generator(seed, "attack")])
    if isinstance(guesses, str):
        raise RuntimeError(guesses)
    return float(score(victim, guesses[0])[0].scores[0].values["psnr"] or 0.0)


def accuracy(kind: str, share: float, seed: int) -> float:
    """Return the accuracy after training with noise at every step."""
    world = federation_of(kind, share, seed, 8, _ROUNDS)
    ended = runner.train(world, lambda _record: None)
    return float(next(iter(evaluate_model(world, ended.weights).values())))


@experiment("shaped-noise", minutes=5, page="defenses/shaped-noise")
def shaped_noise(budget: Budget) -> Cells:
    """Return a cell for each size of the noise, and the control without; the long version takes more seeds."""
    seeds = range(20 if budget.full else 5)
    sizes = {f"noise of {size:g} of the norm": partial(_rows, size, seeds) for size in _SIZES}
    return {"none (control)": partial(_control, seeds), **sizes}


def _control(seeds: Sequence[int]) -> Iterator[Row]:
    yield mean_row("ideal attacker", "none", _decibels(_SIZES[0], seeds)["none"], "dB")
    yield from _attack_rows("none", 0.0, "none", seeds)


def _rows(size: float, seeds: Sequence[int]) -> Iterator[Row]:
    by_name = _decibels(size, seeds)
    unaware = by_name["shaped, taken for independent"]
    yield mean_row("ideal attacker", f"shaped, {size:g} of the norm, taken for independent", unaware, "dB")
    for kind in _KINDS[1:]:
        setting = f"{kind}, {size:g} of the norm"
        yield mean_row("ideal attacker", setting, by_name[kind], "dB")
        yield from _attack_rows(kind, size, setting, seeds)


def _attack_rows(kind: str, size: float, setting: str, seeds: Sequence[int]) -> Iterator[Row]:
    yield mean_row("gradient matching", setting, [matching_psnr(kind, size, seed) for seed in seeds], "dB")
    yield mean_row("accuracy", setting, [accuracy(kind, size, seed) for seed in seeds], "share")


def _decibels(size: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Return the PSNR of each attacker, one a seed."""
    by_name: dict[str, list[float]] = {}
    for seed in seeds:
        world = federation_of("none", 0.0, seed, 1)
        sizes = [p.numel() for p in world.models.parameters.values()]
        for name, error in errors(*derivative(world), sizes, size).items():
            by_name.setdefault(name, []).append(-10.0 * math.log10(error))
    return by_name
