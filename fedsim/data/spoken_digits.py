"""Spoken digits: log spectrograms of 32 x 32 pixels, of five speakers in five languages.

Source: the voice prompts of the Asterisk telephone exchange, in Debian packages: Allison Smith, June Wallack, Paola Dal
Zot, Marco Menardi, ivrvoice.ru (no arXiv id). A recording of a digit is a training example; test examples are the other
numerals that every voice speaks, labelled by their last digit, so an attacker with the test set has heard every
speaker. Attributes: `speaker`, `language`; a user is a speaker. Leakage: the speaker.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.registry import dataset
from fedsim.core.types import Attribute, Dataset
from fedsim.data._facts import SPOKEN_DIGITS
from fedsim.data._images import ImageConfig, Images, normalise, select_indices

Voice = Literal["allison-en", "allison-es", "june-fr", "menardi-it", "carlo-it", "ivrvoice-ru"]

_FOLDERS: dict[Voice, tuple[str, str]] = {  # folder of the voice, and its package
    "allison-en": ("en_US_f_Allison", "asterisk-core-sounds-en-wav"),
    "allison-es": ("es_MX_f_Allison", "asterisk-core-sounds-es-wav"),
    "june-fr": ("fr_CA_f_June", "asterisk-core-sounds-fr-wav"),
    "menardi-it": ("it_IT_f_Menardi", "asterisk-prompt-it-menardi-wav"),
    "carlo-it": ("it_IT_m_Carlo", "asterisk-core-sounds-it-wav"),
    "ivrvoice-ru": ("ru_RU_f_IvrvoiceRU", "asterisk-core-sounds-ru-wav"),
}
_TENS = tuple(range(20, 100, 10))
_DIGITS = tuple(map(str, range(10)))
_OTHERS = (*map(str, (*range(10, 20), *_TENS)), *(f"h-{number}" for number in (*range(1, 21), *_TENS[1:])))

_RATE = 8000
_WINDOW, _HOP, _SIDE = 256, 224, 32
_SAMPLES = _WINDOW + (_SIDE - 1) * _HOP  # 0.9 seconds
_DEEPEST = 60.0  # dynamic range in dB


class SpokenDigitsConfig(ImageConfig):
    """Settings of spoken-digits."""

    path: Path = Field(
        default=Path("/usr/share/asterisk/sounds"),
        description="folder of the voices, as the Debian packages install it",
    )
    voices: tuple[Voice, ...] = Field(
        default=tuple(_FOLDERS), min_length=1, description="speaker: name, a hyphen and the language"
    )
    copies: int = Field(
        default=1, ge=1, description="training examples of a recording: after the first, it is shifted in time"
    )
    longest_shift: int = Field(
        default=800, ge=0, lt=_SAMPLES // 2, description="how far copies are shifted at most, in samples of 1/8000 s"
    )


@dataset("spoken-digits", summary="60 spoken digits and 270 other numerals of five speakers, as spectrograms")
def spoken_digits(config: SpokenDigitsConfig) -> Dataset:
    """Load the recordings.

    Raises:
        MissingExtra: a voice is not at `path`.
        FedsimError: a recording is missing, corrupt or in another format, or a voice is named twice.
    """
    if len(set(config.voices)) < len(config.voices):
        raise FedsimError("data.voices names a voice twice: expected each once.")
    _check_installed(config)
    shifts = torch.randint(
        -config.longest_shift,
        config.longest_shift + 1,
        (config.copies - 1,),
        generator=seeding.generator(config.seed, "shifts"),
    )
    (train, heard), (test, public) = (_read(config, _DIGITS, (0, *shifts.tolist())), _read(config, _OTHERS, (0,)))
    data = normalise(config, train, test, SPOKEN_DIGITS)
    heard = heard[select_indices(train.labels, config.train, config.seed)]
    public = public[select_indices(test.labels, config.test, config.seed)]
    speaker, language = (_attribute(config.voices, place, heard, public) for place in (0, 2))
    canaries = len(data.train) - len(heard)
    users = F.pad(speaker.train, (0, canaries), value=len(speaker.values))  # canaries belong to an additional user
    return replace(data, users=users, attributes={**data.attributes, "speaker": speaker, "language": language})


def spectrograms(sounds: Tensor) -> Tensor:
    """Return log spectrograms as pixels, uint8, shape (N, 1, 32, 32): high bands at the top, time to the right.

    White is the loudest band of a recording, black is 60 dB below it.

    Args:
        sounds: 0.9 seconds each, at 8 kHz, shape (N, 7200).
    """
    window = torch.hann_window(_WINDOW)
    power = torch.stft(sounds, _WINDOW, _HOP, window=window, center=False, return_complex=True).abs().square()
    bands = power[:, 1:].unflatten(1, (_SIDE, -1)).mean(2)
    level = 10 * (bands / bands.amax((1, 2), keepdim=True).clamp_min(torch.finfo().tiny)).log10()
    return level.div(_DEEPEST).add(1).clamp(0, 1).mul(255).round().to(torch.uint8).flip(1)[:, None]


def _check_installed(config: SpokenDigitsConfig) -> None:
    missing = [_FOLDERS[voice] for voice in config.voices if not (config.path / _FOLDERS[voice][0]).is_dir()]
    if missing:
        names, packages = (" ".join(parts) for parts in zip(*missing, strict=True))
        raise MissingExtra(
            f"The data set 'spoken-digits' ({names} in {config.path})",
            f"apt-get install --no-install-recommends {packages}",
        )


def _read(config: SpokenDigitsConfig, names: Sequence[str], shifts: Sequence[int]) -> tuple[Images, Tensor]:
    """Return each recording at each shift, labelled by its last digit, and the index of its voice."""
    utterances = [
        (voice, int(name[-1]), _pad_sound(sound, shift))
        for voice, voice_name in enumerate(config.voices)
        for name in names
        for sound in (_sound(config.path / _FOLDERS[voice_name][0] / "digits" / f"{name}.wav"),)
        for shift in shifts
    ]
    voices, labels, sounds = zip(*utterances, strict=True)
    stored = spectrograms(torch.stack(sounds))
    return Images(torch.tensor(labels), lambda chosen: stored[chosen]), torch.tensor(voices)


def _sound(file: Path) -> Tensor:
    """Return the samples of a recording, shape (N,), in [-1, 1]."""
    try:
        with wave.open(str(file)) as opened:
            form = (opened.getframerate(), opened.getsampwidth(), opened.getnchannels())
            content = opened.readframes(opened.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise FedsimError(f"cannot read {file}: {error}. Install its package again.") from error
    if form != (_RATE, 2, 1):
        raise FedsimError(f"{file} must have {_RATE} samples per second, 16 bits and a single channel: got {form}.")
    return torch.from_numpy(np.frombuffer(content, "<i2").astype(np.float32) / 2**15)


def _pad_sound(sound: Tensor, shift: int) -> Tensor:
    """Return 0.9 seconds with a recording, shape (N,), centred or `shift` samples later; the rest is truncated."""
    left = (_SAMPLES - len(sound)) // 2 + shift
    return F.pad(sound, (left, _SAMPLES - len(sound) - left))


def _attribute(voices: Sequence[Voice], place: int, train: Tensor, test: Tensor) -> Attribute:
    """Return the attribute at this part of the voices' names, for the voices of training and test examples."""
    named = [voice.partition("-")[place] for voice in voices]
    values = tuple(dict.fromkeys(named))
    of_voice = torch.tensor(list(map(values.index, named)))
    return Attribute(values, of_voice[train], of_voice[test])
