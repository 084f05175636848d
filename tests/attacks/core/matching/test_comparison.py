"""Gradients of rows that are built one after the other, beside torch's own."""

import torch
from torch import nn

from attacks.core.matching.comparison import GeneralComparison
from attacks.core.matching.simulated_client import simulated_client
from tests.attacks.solving import toy


def test_figures_of_a_row_are_those_of_its_gradient() -> None:
    torch.manual_seed(0)
    observation, truth = toy(nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)), (2, 2, 2), 3)
    comparison = GeneralComparison(simulated_client(observation, (), True), [observation])
    labels = truth.batches[0].labels
    inputs = torch.stack([truth.batches[0].inputs, torch.zeros(3, 2, 2, 2).double()])
    figures = comparison.gradients(inputs, (), torch.stack([labels] * 2), [0, 0])
    observed = list(observation.update.tensors.values())
    for row, dummy in enumerate(inputs):
        loss = observation.loss(observation.model(dummy), labels)
        gradient = torch.autograd.grad(loss, list(observation.model.parameters()))
        pairs = list(zip(gradient, observed, strict=True))
        for shown, expected in (
            (figures.inner(), [(g * t).sum() for g, t in pairs]),
            (figures.squared_norms(), [(g * g).sum() for g, _ in pairs]),
            (figures.difference(), [(g - t).square().sum() for g, t in pairs]),
            (figures.observed_squared_norms(), [(t * t).sum() for _, t in pairs]),
        ):
            torch.testing.assert_close(shown[row], torch.stack(expected))
    assert not figures.difference()[0].any()
