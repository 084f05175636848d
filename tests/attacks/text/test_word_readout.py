"""The words of a batch: against the batch itself, through dropout, tied weights and noise."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from attacks.text._words import lengths_of, words_of
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Config, Observation, Truth
from fedsim.metrics.text import score_words
from fedsim.scenario.world import World
from fedsim.tasks.core.sentences import READ_WORDS
from tests.attacks.solving import attack_named, hiding
from tests.attacks.written import WRITTEN, masked_client
from tests.federating import watched

KNOWN = ("batch-size", "dropout-rates")


def tokens_of(truth: Truth) -> tuple[Tensor, Tensor]:
    """Tokens with a next one, and those next ones."""
    batch = truth.original_batches[0]
    real = batch.labels != IGNORED
    return batch.inputs[real], batch.labels[real]


@pytest.mark.paper_step("word-readout", "words from nonzero rows of the embedding's gradient")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_read_and_following_words_are_those_of_the_batch_also_through_dropout(dropout: float, batch_size: int) -> None:
    model = {**WRITTEN["model"], "dropout": dropout}
    federation = {"clients": 2, "batch_size": batch_size}
    observation, truth, _ = watched(**{**WRITTEN, "model": model}, knows=KNOWN, federation=federation)
    read, following = tokens_of(truth)
    words = words_of(observation)
    assert words.is_exact
    assert set(words.read.tolist()) == set(read.tolist())
    assert set(words.next_tokens.tolist()) == set(following.tolist())
    lengths = (truth.original_batches[0].labels != IGNORED).sum(1).sort().values
    assert lengths_of(observation) == tuple(lengths.tolist())


def test_tokens_are_counted_as_they_stand_in_the_batch() -> None:
    observation, truth, world = watched(**WRITTEN, knows=KNOWN, federation={"clients": 2, "batch_size": 1})
    guess = attack_named("word-readout")(observation, torch.Generator())
    counted = Counter(guess.inputs[guess.inputs >= 0].tolist())
    read, _ = tokens_of(truth)
    assert counted == Counter(read.tolist())
    assert score_words(guess, truth.original_batches[0], world.data.dataset.tokenizer) == {
        "words_found": 1.0,
        "words_right": 1.0,
    }
    assert guess.diagnostics["tokens that never follow"] == 1.0
    assert set(guess.extras[READ_WORDS].tolist()) == set(read.tolist())


@pytest.mark.parametrize(
    ("part", "expected"), [("embed_tokens.weight", "read"), ("lm_head.weight", "following")], ids=["embedding", "head"]
)
def test_one_of_the_two_layers_is_enough(part: str, expected: str) -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"clients": 2, "batch_size": 2})
    guess = attack_named("word-readout")(hiding(observation, part, hidden=False), torch.Generator())
    read, following = tokens_of(truth)
    right = read if expected == "read" else following
    assert set(guess.inputs[guess.inputs >= 0].tolist()) == set(right.tolist())


def test_tied_weights_show_the_union() -> None:
    model = {**WRITTEN["model"], "tied": True}
    observation, truth, _ = watched(**{**WRITTEN, "model": model}, knows=KNOWN, federation={"batch_size": 1})
    guess = attack_named("word-readout")(observation, torch.Generator())
    assert set(guess.inputs[guess.inputs >= 0].tolist()) == set(torch.cat(tokens_of(truth)).tolist())
    assert len(guess.inputs) == 1  # more rows than sentences would be refused
    assert "input and output layer share their weights" in guess.notes[1]
    assert guess.extras == {}  # which of them were read is not certain


def test_words_stand_out_of_weak_noise_and_drown_in_strong_noise() -> None:
    def under(scale: float) -> tuple[Observation, Truth, World]:
        noise = [{"name": "gradient-noise", "scale": scale}]
        return watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1}, defenses=noise)

    observation, truth, world = under(1e-4)
    guess = attack_named("word-readout")(observation, torch.Generator())
    assert score_words(guess, truth.original_batches[0], world.data.dataset.tokenizer) == {
        "words_found": 1.0,
        "words_right": 1.0,
    }
    assert "no row is exactly zero" in guess.notes[1]
    assert guess.extras == {}
    nothing = attack_named("word-readout")(under(10.0)[0], torch.Generator())
    assert nothing.inputs.shape == (0, *observation.spec.shape)
    assert nothing.stop_reason.startswith("no row of the gradient is distinct")


def test_it_says_what_is_missing() -> None:
    observation, _, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    with pytest.raises(NotApplicable, match="neither the gradient of 'embed_tokens'"):
        attack_named("word-readout")(hiding(observation, "norm.weight", hidden=False), torch.Generator())


def test_of_a_model_that_fills_in_places_visible_and_masked_words_are_named_and_the_mask_token_is_not() -> None:
    observation, truth = masked_client()
    inputs, masked = truth.original_batches[0].inputs, truth.draws[0]["task.masked"]
    inputs, masked = inputs[masked.any(1)], masked[masked.any(1)]  # a sentence without has no gradient
    assert 0 < masked.sum() < masked.numel()
    words = words_of(observation)
    torch.testing.assert_close(words.read, inputs[~masked].unique())
    torch.testing.assert_close(words.next_tokens, inputs[masked].unique())
    found = registry.get("attack", "word-readout").make(Config())(observation, torch.Generator())
    assert sorted(found.inputs[found.inputs >= 0].tolist()) == inputs.unique().tolist()
