"""The benchmark of clamped text: what is counted, what is most specialised, and costs a token."""

import pytest
import torch
from torch import nn

from benchmarks.clamped_text import costs, mention, overall, specialised
from fedsim.components.probe.feature_neurons import NamedNeurons
from fedsim.core.losses import IGNORED


def names(tokens: list[int], odds: list[float]) -> NamedNeurons:
    empty = torch.zeros(0)
    return NamedNeurons(empty, torch.tensor(tokens)[:, None], torch.tensor(odds)[:, None], empty, {})


def test_the_most_specialised_neuron_comes_first_and_layers_count_alike() -> None:
    one = {"a": names([1, 2], [0.1, 0.9]), "b": names([3, 4], [0.5, 0.2])}
    other = {"a": names([1, 2], [0.1, 0.9]), "b": names([3, 5], [0.5, 0.2])}
    assert specialised(one, 3) == [("a", 1), ("b", 0), ("b", 1)]
    assert overall(one, one) == 1
    assert overall(one, other) == 0.75


def test_texts_that_mention_a_dog_are_counted_in_any_case() -> None:
    assert mention(["Dogs!", "a cat", "hot dog", "none"]).startswith("0.50 [")


def test_costs_are_means_over_the_tokens_that_count() -> None:
    class Sure(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.log(torch.tensor([0.5, 0.25, 0.25])).expand(*tokens.shape, 3)

    labels = torch.tensor([[0, 1, IGNORED], [0, 0, 0]])
    found = costs(Sure(), torch.zeros(2, 3).long(), labels)
    assert found.tolist() == pytest.approx([(0.6931 + 1.3863) / 2, 0.6931], abs=1e-4)
