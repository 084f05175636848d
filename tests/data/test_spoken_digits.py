"""Spoken digits: what a spectrogram shows, whose it is, and recordings that are not what they should be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Dataset
from fedsim.data.spoken_digits import SpokenDigitsConfig, spectrograms, spoken_digits
from tests.data.conftest import write_wave


def load(folder: Path, **settings: object) -> Dataset:
    config = {"path": folder, "voices": ["menardi-it", "carlo-it"], **settings}
    return spoken_digits(SpokenDigitsConfig.model_validate(config))


def test_a_tone_is_a_line_at_its_band() -> None:
    tone = torch.sin(2 * torch.pi * 1050 * torch.arange(7200) / 8000)
    pixels = spectrograms(tone[None])
    assert pixels.shape == (1, 1, 32, 32)
    brightest = 31 - pixels[0, 0].argmax(0)  # bands of 125 Hz, the lowest below
    assert brightest.unique().tolist() == [8]
    assert int(spectrograms(torch.zeros(1, 7200)).max()) == 0


def test_who_speaks_and_in_which_language_is_known_of_every_example(sounds_folder: Path) -> None:
    data = load(sounds_folder)
    speaker, language = data.attributes["speaker"], data.attributes["language"]
    assert (len(data.train), len(data.test), speaker.values, language.values) == (20, 90, ("menardi", "carlo"), ("it",))
    assert data.users is not None
    assert torch.equal(data.users, speaker.train)
    for inputs, of in ((data.train.inputs, speaker.train), (data.test.inputs, speaker.test)):
        above, below = inputs[:, 0, :20].amax((1, 2)), inputs[:, 0, 20:].amax((1, 2))
        assert torch.equal((above > below).long(), of)  # the second voice speaks above 1500 Hz


def test_copies_are_shifted_and_canaries_belong_to_nobody(sounds_folder: Path) -> None:
    data = load(sounds_folder, copies=3, canaries=2, repetitions=(2,))
    assert len({example.numpy().tobytes() for example in data.train.inputs[:60]}) == 60
    assert data.users is not None
    assert data.users.bincount().tolist() == [30, 30, 4]


@pytest.mark.parametrize("fault", ["missing", "not a wave", "rate"])
def test_a_recording_that_cannot_be_used_is_named(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "it_IT_m_Carlo" / "digits" / "0.wav"
    file.parent.mkdir(parents=True)
    if fault == "not a wave":
        file.write_bytes(b"noise")
    elif fault == "rate":
        write_wave(file, np.zeros(10), rate=16000)
    with pytest.raises(FedsimError, match=r"0\.wav"):
        load(tmp_path, voices=["carlo-it"])


def test_a_voice_is_named_once(sounds_folder: Path) -> None:
    with pytest.raises(FedsimError, match="twice"):
        load(sounds_folder, voices=["carlo-it", "carlo-it"])
