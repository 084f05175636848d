"""noise-recovery on models, batch sizes and noise levels, with ChaCha20 as control, and the cost of ChaCha20.

The noise comes from torch's CPU generator, from NumPy's legacy generator, or from ChaCha20.

Five clients each send one clipped gradient under `local-dp`, clip 1. "computed" is the share of updates whose cleaned
version differs from the clipped update by less than 1e-4 of the noise (Euclidean norms over all coordinates); "cleaned"
is the fraction of coordinates that differ by less than 1e-4 of the noise's standard deviation. Equations and rank are 0
where no state was found. "Tensors reversed" is a wrong order that the attack assumes; a search over offsets could place
the tensors, so it is no control. "PSNR" is that of the picture that the closed form reads from the cleaned update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import time_alternately, timed
from benchmarks._rows import Row, median_row, share
from benchmarks._victims import make_attack, send_update, world_of
from fedsim.core import seeding
from fedsim.core.types import Tensors, Update
from fedsim.metrics.image import psnr, to_pixels
from fedsim.privacy.accounting import gaussian_epsilon
from fedsim.privacy.discrete_noise import add_discrete
from fedsim.privacy.noise_recovery.recovery import subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise
from fedsim.privacy.secure_noise import normal
from fedsim.privacy.upload import clip_with_derivative
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_SOURCES = {"torch": "", "numpy": ", NumPy", "chacha20": ", ChaCha20"}
_CLIP, _DELTA = 1.0, 1e-5
_NOISES = (1.0, 4.0, 8.0)
_CLIENTS, _SEEDS, _SECONDS = 5, 1000, 120.0
_TOLERANCE = 1e-4  # of the noise
_PASSES = 3
_MOST_DISCRETE = 10**6  # values in a call of the discrete Gaussian
_DIGITS: Mapping[str, Any] = {"name": "mnist5k"}
_NEWS: Mapping[str, Any] = {"name": "lee-news", "length": 16}
_ADAPTER: Mapping[str, Any] = {"name": "lora", "targets": ["*.q_proj", "*.v_proj"]}


class Client(NamedTuple):
    """The data, the model and its components."""

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    components: tuple[Mapping[str, Any], ...] = ()


class Case(NamedTuple):
    """A client with its noise, and the order in which the server reads the tensors."""

    client: str
    batch_size: int
    noise: float
    generator: str = "torch"
    is_reversed: bool = False

    @property
    def setting(self) -> str:
        """The words of a table."""
        control = ", tensors reversed" if self.is_reversed else ""
        return f"{self.client}, B = {self.batch_size}, noise {self.noise:g}{_SOURCES[self.generator]}{control}"

    @property
    def has_picture(self) -> bool:
        """Whether the closed form reads the client's picture."""
        return self.client == _MLP and self.batch_size == 1 and not self.is_reversed


_MLP, _VIT, _LLAMA, _SMOLLM2 = "MLP", "small ViT", "tiny Llama with LoRA", "SmolLM2 with LoRA"
CLIENTS: Mapping[str, Client] = {
    _MLP: Client(_DIGITS, {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.0}),
    _VIT: Client(_DIGITS, {"name": "vit-small", "dropout": 0.0}),
    _LLAMA: Client(_NEWS, {"name": "tiny-llama"}, ({**_ADAPTER, "rank": 32},)),
    _SMOLLM2: Client({**_NEWS, "tokenizer": "smollm2-135m"}, {"name": "smollm2-135m"}, ({**_ADAPTER, "rank": 8},)),
}
_SIZES = ((_MLP, 8), (_MLP, 32), *((client, size) for client in (_VIT, _LLAMA, _SMOLLM2) for size in (1, 8, 32)))
SHORT: Mapping[str, Sequence[Case]] = {
    "MLP, B = 1": [*(Case(_MLP, 1, noise) for noise in _NOISES), Case(_MLP, 1, 8.0, "chacha20")],
    "tensors reversed, MLP": [Case(_MLP, 1, 8.0, is_reversed=True)],
}
LONG: Mapping[str, Sequence[Case]] = {
    **SHORT,
    **{f"{client}, B = {size}": [Case(client, size, noise) for noise in _NOISES] for client, size in _SIZES},
    "tensors reversed, text": [Case(_LLAMA, 1, 8.0, is_reversed=True)],
    "ChaCha20": [Case(client, 1, 8.0, "chacha20") for client in (_VIT, _LLAMA, _SMOLLM2)],
    "ChaCha20, B = 32": [Case(client, 32, 8.0, "chacha20") for client in CLIENTS],
    "NumPy, SmolLM2": [
        *(Case(_SMOLLM2, 1, noise, "numpy") for noise in _NOISES),
        *(Case(_SMOLLM2, size, 8.0, "numpy") for size in (8, 32)),
    ],
    "NumPy, dense updates": [Case(client, 1, 8.0, "numpy") for client in (_MLP, _VIT, _LLAMA)],
    "small noise": [Case(_MLP, 1, noise) for noise in (0.1, 0.01)],
}


@experiment("computable-noise", minutes=4, page="attacks/noise-recovery")
def computable_noise(budget: Budget) -> Cells:
    """Return a cell for each group of cases, and a cell for the cost; the long version draws 10^8 values too."""
    cases, counts = (LONG, (10**6, 10**8)) if budget.full else (SHORT, (10**6,))
    return {**{name: partial(_rows, group) for name, group in cases.items()}, "cost": partial(_cost, counts)}


def _rows(cases: Sequence[Case]) -> Iterator[Row]:
    for case in cases:
        yield from _rows_of(case)


def _rows_of(case: Case) -> Iterator[Row]:
    defense = {"name": "local-dp", "noise_multiplier": case.noise, "clip": _CLIP, "generator": case.generator}
    noisy, clean = _world(case.client, case.batch_size, defense), _clean_world(case.client, case.batch_size)
    found = [_attack_client(case, noisy, clean, client) for client in range(_CLIENTS)]
    mu = 2 * _CLIP / (case.noise * _CLIP)  # two updates are at most two clips apart
    yield Row("epsilon", case.setting, gaussian_epsilon(mu, _DELTA), "", n=_CLIENTS)
    yield share("computed", case.setting, [one.is_computed for one in found])
    yield median_row("cleaned", case.setting, [one.cleaned_share for one in found], "share")
    yield median_row("equations", case.setting, [one.equations for one in found], "")
    yield median_row("rank", case.setting, [one.rank for one in found], "")
    yield median_row("time", case.setting, [one.seconds for one in found], "processor s")
    if case.has_picture:
        yield median_row("PSNR", case.setting, [one.picture for one in found], "dB")
        yield median_row("PSNR as received", case.setting, [one.noisy_picture for one in found], "dB")


class _Attacked(NamedTuple):
    """Figures of a client's update: `is_computed` is 0 or 1, `cleaned_share` in [0, 1], pictures in dB."""

    is_computed: float
    cleaned_share: float
    equations: float
    rank: float
    seconds: float
    picture: float
    noisy_picture: float


def _attack_client(case: Case, noisy: World, clean: World, client: int) -> _Attacked:
    victim, deviation = send_update(noisy, client), case.noise * _CLIP
    update = victim.entry.update
    clipped = clip_with_derivative(send_update(clean, client).entry.update.tensors, _CLIP)
    (outcome, tensors), seconds = timed(
        partial(subtract_noise, ordered_tensors(update, case), _SEEDS, _SECONDS, deviation=deviation)
    )
    read = partial(_psnr, victim) if case.has_picture else lambda _: math.nan
    return _Attacked(
        float(is_computed(tensors, clipped, deviation)),
        cleaned_fraction(tensors, clipped, deviation),
        float(outcome.equations) if isinstance(outcome, ComputedNoise) else 0.0,
        float(outcome.rank) if isinstance(outcome, ComputedNoise) else 0.0,
        seconds,
        read({name: tensors[name] for name in update.tensors}),
        read(update.tensors),
    )


def is_computed(tensors: Tensors, clipped: Tensors, deviation: float) -> bool:
    """Return whether two updates differ by less than 1e-4 of the expected norm of the noise."""
    errors = _errors(tensors, clipped)
    return float(errors.norm()) < _TOLERANCE * deviation * math.sqrt(len(errors))


def cleaned_fraction(tensors: Tensors, clipped: Tensors, deviation: float) -> float:
    """Return the fraction of coordinates that differ by less than 1e-4 standard deviations of the noise."""
    return float((_errors(tensors, clipped).abs() < _TOLERANCE * deviation).double().mean())


def _errors(tensors: Tensors, clipped: Tensors) -> Tensor:
    return torch.cat([(tensors[name].double() - clipped[name].double()).flatten() for name in sorted(clipped)])


def ordered_tensors(update: Update, case: Case) -> Tensors:
    """Return the tensors in the order of the draws, or in the opposite order."""
    names = reversed(list(update.tensors)) if case.is_reversed else update.tensors
    return {name: update.tensors[name] for name in names}


def _psnr(victim: Victim, tensors: Tensors) -> float:
    observation = observe(victim, ("batch-size", "input-statistics"))
    given = replace(observation, update=replace(observation.update, tensors=tensors))
    guess = make_attack("closed-form-linear")(given, seeding.generator(1, "attack"))
    spec = victim.world.data.dataset.spec
    return float(psnr(to_pixels(guess.inputs, spec), to_pixels(victim.truth.batches[0].inputs, spec)))


@lru_cache(maxsize=1)  # cases of a group share it, and SmolLM2 takes half a minute
def _clean_world(name: str, batch_size: int) -> World:
    return _world(name, batch_size)


def _world(name: str, batch_size: int, *defenses: dict[str, Any]) -> World:
    client = CLIENTS[name]
    tables = {
        "seed": 90,
        "data": dict(client.data),
        "model": dict(client.model),
        "components": [dict(component) for component in client.components],
        "federation": {"clients": 8, "batch_size": batch_size},
        "defenses": list(defenses),
    }
    return world_of(tables)


def _cost(counts: Sequence[int]) -> Iterator[Row]:
    names = ("torch", "ChaCha20", "ChaCha20, discrete Gaussian")
    for count in counts:
        ways = [partial(way, torch.zeros(count)) for way in (_default, _secure, _discrete)]
        # 10^8 discrete values take most of a minute, and nothing settles any more after 10^6.
        seconds = time_alternately(ways, _PASSES) if count <= _MOST_DISCRETE else time_alternately(ways, 1, settling=0)
        for name, of_way in zip(names, seconds, strict=True):
            yield median_row(name, f"{count:,} float32 values", of_way, "processor s")


def _default(blank: Tensor, _: int) -> None:
    torch.empty_like(blank).normal_()


def _secure(blank: Tensor, _: int) -> None:
    normal(blank)


def _discrete(blank: Tensor, _: int) -> None:
    for part in blank.split(_MOST_DISCRETE):
        add_discrete(part, 1.0)
