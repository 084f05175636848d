"""The score of a linear model in closed form, where the distance to the boundary is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.types import Batch
from fedsim.questions.membership.types import MembershipObservation
from tests.attacks.membership.linear import Make, observed, scored


def two_classes(inputs: Tensor, labels: Tensor) -> MembershipObservation:
    """A linear model of two classes whose boundary is x_0 = 0: the distance of an example is |x_0|."""
    model = nn.Linear(inputs.shape[1], 2).eval()
    weights = {"weight": torch.zeros(2, inputs.shape[1]), "bias": torch.zeros(2)}
    weights["weight"][1, 0], weights["weight"][0, 0] = 1.0, -1.0
    model.load_state_dict(weights)
    return replace(observed(), candidates=Batch(inputs, labels), model=model, weights=((1, weights),))


@pytest.mark.paper_step("label-only", "distance to the boundary by labels under noise")
def test_the_score_is_the_normal_probability_of_the_distance(attack_of: Make) -> None:
    distances = torch.tensor([-1.5, -0.2, 0.1, 0.6, 3.0])  # below 0 on the wrong side
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    inputs[:, 0] = distances
    levels, draws = (0.5, 1.0), 2000
    found = scored(
        attack_of("label-only", levels=levels, draws=draws), two_classes(inputs, torch.ones(5, dtype=torch.long))
    )
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = [
        float(distance > 0) + sum(float(normal.cdf(distance / level)) for level in levels) / len(levels)
        for distance in distances
    ]
    assert found == pytest.approx(expected, abs=4 * 0.5 / draws**0.5)  # four deviations of a share of as many draws


def test_examples_farther_from_the_boundary_never_score_less(attack_of: Make) -> None:
    """All candidates see the same noise, so the order is that of the distances, not of luck."""
    inputs = torch.zeros(40, 3)
    inputs[:, 0] = torch.linspace(-2, 2, 40)
    found = scored(attack_of("label-only"), two_classes(inputs, torch.ones(40, dtype=torch.long)))
    assert found == sorted(found)


def test_without_noise_it_is_the_gap_attack(attack_of: Make) -> None:
    inputs = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    seen = two_classes(inputs, torch.ones(2, dtype=torch.long))
    assert scored(attack_of("label-only", draws=0), seen) == [1.0, 0.0]


def test_it_asks_for_labels_alone(attack_of: Make) -> None:
    """Outputs of another scale with the same order give the same bits."""
    seen = two_classes(torch.randn(9, 3, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 2)
    louder = replace(seen, weights=((1, {name: 100 * weight for name, weight in seen.weights[0][1].items()}),))
    attack = attack_of("label-only")
    assert scored(attack, seen) == scored(attack, louder)
