"""The benchmark of a real model's surplus: frequent tokens, principal components, and a source where it is known."""

import math

import pytest
import torch

from benchmarks.markov_smollm2 import by_text, components, frequent, surplus


def test_rare_tokens_are_one_class_and_unknown_ones_are_rare() -> None:
    tokens, is_known = torch.tensor([7, 7, 7, 4, 4, 9, 2]), torch.arange(7) < 6
    assert frequent(tokens, is_known, 2).tolist() == [1, 1, 1, 2, 2, 0, 0]


def test_components_are_those_of_the_known_vectors() -> None:
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 3.0])
    found = components(vectors, torch.arange(50) < 40)
    assert found.shape == (50, 3)
    variances = found[:40].var(0)
    assert (variances[:-1] > variances[1:]).all()
    torch.testing.assert_close(found[:40].square().sum(), (vectors[:40] - vectors[:40].mean(0)).double().square().sum())


def test_a_state_that_holds_the_later_tokens_has_their_entropy_as_surplus_and_noise_has_none() -> None:
    source = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 4, (3000, 3), generator=source)
    embedding = torch.eye(4).double()
    is_known = torch.arange(3000) < 1500
    states = torch.cat((embedding[tokens[:, 1]], embedding[tokens[:, 2]]), 1)
    noise = torch.randn(states.shape, generator=source).double()
    texts = torch.arange(3000)
    told, none = (float(surplus(embedding, own, tokens, texts, is_known).mean()) for own in (states, noise))
    assert told == pytest.approx(
        2 * math.log(4), abs=0.02
    )  # the entropy of two uniform tokens; that of the method's tests
    assert abs(none) < 0.02


def test_texts_count_alike() -> None:
    assert by_text(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([4, 4, 8])) == [2.0, 5.0]
