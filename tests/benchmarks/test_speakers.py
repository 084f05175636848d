"""The reader of speakers, against voices whose bands are planted."""

import torch
from torch import Tensor

from benchmarks.speakers import reader, voiced_frames
from fedsim.core.types import InputSpec

SPEC = InputSpec((1, 32, 32), 10, (0.2,), (0.25,))


def utterances(speakers: Tensor, seed: int) -> Tensor:
    """Return noise in which each speaker is loud in four bands of its own, and silent at the end."""
    pixels = torch.rand(len(speakers), 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 0.3
    for pixel, speaker in zip(pixels, speakers.tolist(), strict=True):
        pixel[0, 4 * speaker : 4 * speaker + 4] += 0.5
        pixel[0, :, 20:] = 0
    return (pixels - SPEC.mean[0]) / SPEC.std[0]


def test_planted_speakers_are_told_by_other_utterances_and_by_them_alone() -> None:
    speakers = torch.arange(4).repeat(5)
    told = reader(utterances(speakers, 0), speakers, SPEC)
    guesses = [told.speaker(utterance) for utterance in utterances(speakers, 1)]
    assert guesses == speakers.tolist()
    silent = (torch.zeros(1, 32, 32) - SPEC.mean[0]) / SPEC.std[0]
    assert 0 <= told.speaker(silent) < 4


def test_silent_frames_are_not_read_unless_all_are() -> None:
    own = utterances(torch.tensor([2]), 0)[0]
    assert voiced_frames(own, SPEC).shape == (20, 32)
    assert voiced_frames(torch.full((1, 32, 32), -0.8), SPEC).shape == (32, 32)
