"""Who speaks, read off the reconstruction of a spectrogram, with and without dropout of 0.2.

Each client sends the gradient of one spoken digit at fresh weights. An attacker reconstructs the spectrogram, and a
linear reader of its frames, fitted on other numerals of the same speakers, names the speaker. Beside the attacks stand
the true spectrogram, which the reader must tell, the true one with the answers permuted, and a reader that never heard
one speaker's other language. Chance is one in five. Shares are of clients. Without --full a fifth of the clients, and
the MLP alone. Paper: Dang et al. 2021, arXiv 2104.07815.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, share
from benchmarks._victims import make_attack, try_attack, victims_of
from fedsim.components.probe.ridge import Ridge, RidgeConfig
from fedsim.core import registry, seeding
from fedsim.core.types import Dataset, InputSpec, Tensors

DATA: Mapping[str, Any] = {"name": "spoken-digits"}
CLIENTS, SHORT = 60, 12
RATES = (0.0, 0.2)
ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "auto": {"max_iterations": 100},
    "inverting-gradients": {"max_iterations": 100},
    "dropout-inversion": {"max_iterations": 100},
}
_THINNED = 4
_QUIETEST = 0.15  # of the range of 60 dB: frames below it hold no voice


class Reader(NamedTuple):
    """What a linear map of frames learned of speakers."""

    probe: Ridge
    learned_weights: Tensors
    spec: InputSpec

    def speaker(self, spectrogram: Tensor) -> int:
        """Return who speaks in a normalised spectrogram, shape (1, bands, frames): the most likely over its frames."""
        frames = voiced_frames(spectrogram, self.spec)
        return int(self.probe.predict(self.learned_weights, frames).sum(0).argmax())


def voiced_frames(spectrogram: Tensor, spec: InputSpec) -> Tensor:
    """Return the frames that hold a voice, in [0, 1], shape (N, bands); all frames where none does."""
    pixels = (spectrogram.detach()[0] * spec.std[0] + spec.mean[0]).clamp(0, 1).T
    loud = pixels.mean(1) > _QUIETEST
    return pixels[loud] if loud.any() else pixels


def reader(inputs: Tensor, speakers: Tensor, spec: InputSpec) -> Reader:
    """Fit a reader on normalised spectrograms (N, 1, bands, frames) whose speakers (N,) are known."""
    frames = [voiced_frames(sound, spec)[::_THINNED] for sound in inputs]  # neighbours overlap and say the same
    owners = torch.cat([speaker.expand(len(part)) for speaker, part in zip(speakers, frames, strict=True)])
    probe = Ridge(RidgeConfig())
    return Reader(probe, probe.fit(torch.cat(frames), owners, seeding.generator(0, "speakers")), spec)


def controls(data: Dataset) -> Iterator[Row]:
    """Yield what the reader tells of true spectrograms, also in a language that it never heard the speaker use."""
    speaker, language = data.attributes["speaker"], data.attributes["language"]
    nearest = reader(data.test.inputs, speaker.test, data.spec)
    guesses = torch.tensor([nearest.speaker(sound) for sound in data.train.inputs])
    yield _row("true spectrogram", "control", guesses == speaker.train, ">= 0.9")
    order = torch.randperm(len(guesses), generator=seeding.generator(0, "permuted"))
    yield _row("true spectrogram, permuted", "control", guesses[order] == speaker.train)
    for name in ("en", "es"):
        unheard = language.values.index(name)
        kept, unheard_sounds = language.test != unheard, language.train == unheard
        other = reader(data.test.inputs[kept], speaker.test[kept], data.spec)
        guessed = torch.tensor([other.speaker(x) for x in data.train.inputs[unheard_sounds]])
        yield _row(f"true spectrogram, {name} never heard", "Allison alone", guessed == speaker.train[unheard_sounds])


def attack_rows(model: Mapping[str, Any], clients: int, listener: Reader, data: Dataset) -> Iterator[Row]:
    """Yield the share of speakers that each attack tells under this model."""
    views = list(victims_of(DATA, model, clients, clients=CLIENTS))
    owners = [_owner(view.batch.inputs[0], data) for view in views]
    setting = ", ".join(f"{key} {value}" for key, value in model.items() if key != "name")
    for name, settings in ATTACKS.items():
        attack = make_attack(name, **settings)
        guesses = [try_attack(attack, view.observation, 0, name)[0] for view in views]
        right = [
            guess is not None and listener.speaker(guess.inputs[0]) == owner
            for guess, owner in zip(guesses, owners, strict=True)
        ]
        yield _row(name, f"{model['name']}, {setting}", torch.tensor(right))


@experiment("speakers", minutes=5, page="speakers")
def speakers(budget: Budget) -> Cells:
    """Return the cell of the controls, and one for each network and rate."""
    models: dict[str, dict[str, Any]] = {
        f"{name}, dropout {rate:g}": {"name": name, "dropout": rate, **({"width": 128} if name == "mlp" else {})}
        for name in (("mlp", "lenet") if budget.full else ("mlp",))
        for rate in RATES
    }
    clients = CLIENTS if budget.full else SHORT
    attacks = {words: partial(_attack_rows, model, clients) for words, model in models.items()}
    return {"controls": lambda: controls(_sounds()), **attacks}


def _attack_rows(model: Mapping[str, Any], clients: int) -> Iterator[Row]:
    data = _sounds()
    yield from attack_rows(model, clients, reader(data.test.inputs, data.attributes["speaker"].test, data.spec), data)


@cache
def _sounds() -> Dataset:
    method = registry.get("dataset", DATA["name"])
    return cast("Dataset", method.make(method.config()))


def _owner(example: Tensor, data: Dataset) -> int:
    place = (data.train.inputs == example).flatten(1).all(1).nonzero()[0]
    return int(data.attributes["speaker"].train[place])


def _row(name: str, setting: str, right: Tensor, must: str = "") -> Row:
    return share("speakers told", f"{name}, {setting}", right.double().tolist(), must)
