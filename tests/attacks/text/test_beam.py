"""Sentences grown by spans without a threshold: distances at the truth, prefixes, and what is refused."""

from typing import Any

import pytest
import torch

from attacks.text._beam import CandidateReader, apart, grow_beam, pool_of, readers_of
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Step
from tests.attacks.solving import attack_named, hiding
from tests.attacks.text.texts import KNOWN, exact, in_double
from tests.attacks.written import WRITTEN
from tests.federating import watched


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_both_distances_are_zero_at_the_truth(batch_size: int, dropout: float) -> None:
    tables = {**WRITTEN, "model": {**WRITTEN["model"], "dropout": dropout}}
    federation = {"clients": 2, "batch_size": batch_size}
    observation, truth, _ = watched(**tables, knows=(*KNOWN, "masks"), federation=federation)
    batch = truth.original_batches[0]
    readers = readers_of(in_double(observation, truth))
    assert len(readers) == (batch_size if dropout else 1)
    for row in range(batch_size):
        length = int((batch.labels[row] != IGNORED).sum())
        reader = readers[row] if dropout else readers[0]
        first, second = reader.distances(batch.inputs[row : row + 1, :length])
        assert first.max().item() < 1e-10
        assert second.max().item() < 1e-10


def test_a_wrong_word_lies_outside_both_spans() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    (reader,) = readers_of(observation)
    tokens = truth.original_batches[0].inputs[:1, :6].clone()
    absent = next(token for token in range(256) if token not in tokens.flatten().tolist())
    tokens[0, 5] = absent
    first, second = reader.distances(tokens)
    assert first[0, :5].max() < 1e-9
    assert first[0, 5] > 0.1
    assert second[0, 5] > 0.1


def test_words_that_never_follow_stand_first_only() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    (reader,) = readers_of(observation)
    pool = pool_of(observation, reader, (7,))
    first = truth.original_batches[0].inputs[0, 0]
    assert pool.max_counts[pool.tokens == first].tolist() == [0]
    ends = grow_beam(reader, pool, (7,), 4, torch.Generator().manual_seed(0), lambda _prefixes, _score: None)
    assert (ends[7].prefixes[:, 1:] != first).all()


def test_without_the_embedding_the_nearest_tokens_are_tried() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    hidden = hiding(observation, "embed_tokens.weight")
    pool = pool_of(hidden, readers_of(hidden)[0], (7,))
    batch = truth.original_batches[0]
    real = set(batch.inputs[batch.labels != IGNORED].tolist())
    assert set(pool.tokens[: len(real)].tolist()) == real


@pytest.mark.parametrize(
    ("dropout", "batch_size"),
    [(0.0, 1), (0.2, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.0, 3), (0.2, 1), (0.2, 3)))],
)
def test_sentences_are_exact_also_through_known_masks(dropout: float, batch_size: int) -> None:
    tables = {**WRITTEN, "model": {**WRITTEN["model"], "dropout": dropout}}
    federation = {"clients": 2, "batch_size": batch_size}
    observation, truth, world = watched(**tables, knows=(*KNOWN, "masks"), federation=federation)
    steps: list[Step] = []
    guess = attack_named("subspace-distance")(observation, torch.Generator().manual_seed(0), steps.append)
    assert exact(guess, truth, world) == [True] * batch_size
    assert guess.is_exact
    assert [step.iteration for step in steps] == sorted(step.iteration for step in steps)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"model": {"name": "tiny-llama", "width": 64, "blocks": 1}},
            "two attention blocks that begin with linear layers",
        ),
        ({"model": {"name": "tiny-llama", "width": 16}}, "they span everything"),
    ],
)
def test_it_says_why_it_does_not_apply(changes: dict[str, Any], reason: str) -> None:
    federation = {"clients": 2, "batch_size": 2}
    observation, _, _ = watched(knows=KNOWN, **{**WRITTEN, **changes}, federation=federation)
    with pytest.raises(NotApplicable, match=reason):
        attack_named("subspace-distance")(observation, torch.Generator())


def test_a_prefix_of_a_chosen_sentence_is_none_of_its_own() -> None:
    long, prefix, other = torch.arange(9), torch.arange(5), torch.tensor([0, 9, 9, 9, 9])
    assert [own.tolist() for own in apart([long, prefix, other], 0.7, 3)] == [long.tolist(), other.tolist()]
    assert len(apart([long, other], 0.7, 1)) == 1


def test_masks_are_cut_to_the_prefix() -> None:
    tables = {**WRITTEN, "model": {**WRITTEN["model"], "dropout": 0.3}}
    observation, truth, _ = watched(**tables, knows=(*KNOWN, "masks"), federation={"batch_size": 1})
    (reader,) = readers_of(observation)
    assert isinstance(reader, CandidateReader)
    tokens = truth.original_batches[0].inputs[:1, :6]
    whole = reader.distances(tokens)[1]
    for length in range(1, 7):
        assert torch.allclose(reader.distances(tokens[:, :length])[1], whole[:, :length], atol=1e-12)
