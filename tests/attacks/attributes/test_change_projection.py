"""Random projections keep inner products; on a linear model in closed form the direction is the example."""

import torch

from attacks.attributes.change_projection import ChangeProjection, ChangeProjectionConfig
from tests.attacks.attributes.changes import always, by_coin, share


def described(change: dict[str, torch.Tensor], width: int) -> torch.Tensor:
    attack = ChangeProjection(ChangeProjectionConfig(width=width))
    return attack.describe(change, torch.Generator().manual_seed(3))


def test_a_direction_is_kept_but_for_chance_and_a_length_is_not() -> None:
    draws = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    one, two = draws[0], draws[0] + draws[1]
    first, second = (described({"a": own[:1500], "b": own[1500:].view(50, 50)}, 1000) for own in (one, two))
    wanted = torch.cosine_similarity(one, two, dim=0)
    assert abs(float(first @ second - wanted)) < 5 / 1000**0.5  # five standard deviations of a count sketch
    assert torch.allclose(described({"a": 3 * one}, 1000), described({"a": one}, 1000))


def test_a_single_entry_falls_into_one_place_with_its_sign() -> None:
    one = torch.zeros(30)
    one[7] = -4.0
    kept = described({"a": one}, 8)
    assert kept.abs().sum() == kept.abs().max() == 1.0
    assert torch.equal(described({"a": -one}, 8), -kept)


def test_the_direction_of_a_linear_models_change_is_its_example_unless_labels_turn_it() -> None:
    attack = ChangeProjection(ChangeProjectionConfig(width=256))
    assert share(attack, always) > 0.9  # -x is seen up to its length
    assert 0.35 < share(attack, by_coin) < 0.65  # 120 coins: five standard deviations are 0.23
