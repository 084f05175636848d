"""Which places of texts are masked is read off the first two spans."""

import copy
from dataclasses import replace

import pytest
import torch

from attacks.core.results import NothingFound
from attacks.text._masked_places import has_no_spans, masked_places
from fedsim.core import seeding
from tests.attacks.solving import without_information
from tests.attacks.written import masked_texts


def test_the_mask_token_lies_in_the_span_at_masked_places_alone() -> None:
    observation, truth = masked_texts(1)
    assert torch.equal(masked_places(observation, generator()), truth.draws[0]["task.masked"])


def test_of_several_texts_the_second_span_says_which_places_are_masked_together() -> None:
    observation, truth = masked_texts(2)
    found = masked_places(observation, generator())
    assert sorted(found.tolist()) == sorted(truth.draws[0]["task.masked"].tolist())


@pytest.mark.parametrize("size", [1, 2])
def test_words_numbered_behind_the_mask_token_are_read_too(size: int) -> None:
    observation, truth = masked_texts(size)
    inputs, model = truth.original_batches[0].inputs, copy.deepcopy(observation.model)
    last, vocabulary = model.mask_token, observation.spec.vocabulary
    assert last == vocabulary
    free = next(token for token in range(last) if token < int(inputs.min()))
    rows = model.get_parameter("embed_tokens.weight").detach()
    rows[[free, last]] = rows[[last, free]]  # the mask is numbered in front of all words of the texts
    model.mask_token = free  # type: ignore[assignment]
    renumbered = replace(observation, model=model, spec=replace(observation.spec, vocabulary=last + 1))
    found = masked_places(renumbered, generator())
    assert sorted(found.tolist()) == sorted(truth.draws[0]["task.masked"].tolist())


def generator() -> torch.Generator:
    return seeding.generator(0, "attack")


def test_noise_in_place_of_a_gradient_is_refused_with_its_reason() -> None:
    assert has_no_spans(masked_texts(1)[0]) is None
    with pytest.raises(NothingFound, match="no token's embedding lies in the span"):
        masked_places(without_information(masked_texts(1)[0]), generator())
