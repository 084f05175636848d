"""Sentences chosen from beams: one for every length, none twice where others are left."""

import torch
from torch import Tensor

from attacks.text._beam import PrefixBeam
from attacks.text.subspace_distance import SubspaceDistance, SubspaceDistanceConfig, _assign


def beam(rows: list[list[int]], scores: list[float]) -> PrefixBeam:
    return PrefixBeam(torch.tensor(rows), torch.tensor(scores, dtype=torch.float64))


def listed(sentences: list[Tensor]) -> list[list[int]]:
    return [sentence.tolist() for sentence in sentences]


def test_of_equal_lengths_the_second_sentence_is_another_one() -> None:
    attack = SubspaceDistance(SubspaceDistanceConfig(overlap=0.9))
    ends = {3: beam([[1, 2, 3], [1, 2, 3], [4, 5, 6]], [-9.0, -8.0, -7.0])}
    assert listed(attack._choose_sentences(ends, (3, 3))) == [[1, 2, 3], [4, 5, 6]]
    assert listed(attack._choose_sentences(ends, (3, 3, 3))) == [[1, 2, 3], [4, 5, 6], [1, 2, 3]]


def test_long_sentences_come_first_and_lengths_without_a_beam_are_left_out() -> None:
    attack = SubspaceDistance(SubspaceDistanceConfig())
    ends = {2: beam([[7, 8]], [-1.0]), 3: beam([[1, 2, 3]], [-9.0])}
    assert listed(attack._choose_sentences(ends, (2, 3, 4))) == [[1, 2, 3], [7, 8]]


def test_readers_get_the_lengths_that_suit_them_together() -> None:
    beams = [
        {1: beam([[5]], [-1.0]), 2: beam([[1, 2]], [-9.0])},
        {1: beam([[6]], [-2.0]), 2: beam([[3, 4]], [-9.5])},
    ]
    assert listed(_assign(beams, (1, 2))) == [[1, 2], [6]]
