"""Examples that are followed back from features, against solutions of least norm in closed form."""

import torch
from torch import Tensor

from attacks.core.feature_inversion import follow_back


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_linear_features_lead_to_the_example_that_is_nearest_to_the_start() -> None:
    matrix, start, wanted = drawn(5, 12), drawn(1, 3, 4, seed=1), drawn(5, seed=2)
    found = follow_back(lambda own: own.flatten(1) @ matrix.T, wanted, start)
    nearest = start.flatten() + torch.linalg.pinv(matrix) @ (wanted - matrix @ start.flatten())
    torch.testing.assert_close(found.flatten(), nearest, atol=1e-5, rtol=0)  # steps end at single precision


def test_steps_are_least_in_the_norm_of_a_covariance() -> None:
    matrix, root, start, wanted = drawn(5, 12), drawn(12, 12, seed=3), drawn(1, 12, seed=1), drawn(5, seed=2)
    covariance = root @ root.T
    found = follow_back(lambda own: own @ matrix.T, wanted, start, lambda slopes: slopes @ covariance)
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T)
    torch.testing.assert_close(found[0], start[0] + gain @ (wanted - matrix @ start[0]), atol=1e-4, rtol=0)


def test_as_many_smooth_features_as_entries_lead_to_the_example() -> None:
    matrix, true = drawn(20, 12), drawn(1, 12, seed=1)

    def read(own: Tensor) -> Tensor:
        return (own @ matrix.T / 4).tanh()

    found = follow_back(read, read(true)[0], torch.zeros(1, 12, dtype=torch.float64))
    torch.testing.assert_close(found, true, atol=1e-4, rtol=0)


def test_features_that_cannot_be_had_leave_the_start_or_something_nearer() -> None:
    start = drawn(1, 6)
    wanted = torch.tensor([2.0, -1.0], dtype=torch.float64)  # of a sigmoid

    def read(own: Tensor) -> Tensor:
        return own[:, :2].sigmoid()

    found = follow_back(read, wanted, start)
    assert float((read(found)[0] - wanted).norm()) <= float((read(start)[0] - wanted).norm())
    assert torch.equal(found[:, 2:], start[:, 2:])


def test_slopes_are_taken_roughly_far_away_and_exactly_nearby() -> None:
    matrix, true = drawn(20, 12), drawn(1, 12, seed=1)
    asked: list[float] = []

    def read(own: Tensor) -> Tensor:
        return (own @ matrix.T / 4).tanh()

    def roughly(own: Tensor) -> Tensor:
        asked.append(float((read(own.detach())[0] - wanted).norm() / wanted.norm()))
        return read(own.float().double())

    wanted = read(true)[0]
    found = follow_back(read, wanted, torch.zeros(1, 12, dtype=torch.float64), roughly=roughly)
    torch.testing.assert_close(found, true, atol=1e-4, rtol=0)
    assert asked
    assert min(asked) > 1e-3
