"""The linear probe beside scikit-learn's, and what it refuses."""

import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from fedsim.components.probe.ridge import Ridge, RidgeConfig
from fedsim.core.errors import NotApplicable


def drawn(width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(width)
    return torch.randn(30, width, generator=source), torch.arange(30) % 3, torch.randn(9, width, generator=source)


@pytest.mark.parametrize("width", [4, 70])
def test_it_is_the_ridge_of_a_second_library(width: int) -> None:
    hidden, labels, asked = drawn(width)
    probe = Ridge(RidgeConfig(penalty=0.5))
    predictions = probe.predict(probe.fit(hidden, labels, torch.Generator()), asked)
    mean, spread = hidden.double().mean(0), hidden.double().std(0, correction=0)
    wanted = torch.nn.functional.one_hot(labels).double()
    reference = Reference(alpha=0.5 * width).fit(((hidden - mean) / spread).numpy(), wanted.numpy())
    scores = torch.from_numpy(reference.predict(((asked - mean) / spread).numpy())).clamp_min(0)
    expected = (scores / scores.sum(1, keepdim=True)).float()
    assert torch.allclose(predictions, expected, atol=1e-5)  # single precision of the answer


@pytest.mark.parametrize(
    ("hidden", "labels", "why"),
    [
        (torch.ones(3, 2), torch.zeros(3, dtype=torch.long), "found a single class"),
        (torch.ones(3), torch.arange(3) % 2, r"shape \(3,\)"),
        (torch.full((3, 2), torch.nan), torch.arange(3) % 2, "not finite"),
    ],
)
def test_it_says_what_does_not_suit_it(hidden: torch.Tensor, labels: torch.Tensor, why: str) -> None:
    with pytest.raises(NotApplicable, match=why):
        Ridge(RidgeConfig()).fit(hidden, labels, torch.Generator())
