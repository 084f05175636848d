"""The prior of the server's images, against a covariance that is written out and regressions on all images but one."""

import torch
from torch import Tensor

from attacks.malicious_server._public_prior import _RIDGES, _UNSHARED, PublicPrior, _ridge


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_spread_is_the_covariance_and_a_share_of_independent_pixels() -> None:
    images, slopes = drawn(30, 2, 3) @ drawn(3, 3, seed=1), drawn(4, 6, seed=2)
    covariance = torch.cov(images.flatten(1).T, correction=0)
    independent = covariance.diagonal().mean() * torch.eye(6).double()
    expected = slopes @ ((1 - _UNSHARED) * covariance + _UNSHARED * independent)
    torch.testing.assert_close(PublicPrior(images).spread(slopes), expected)


def test_the_error_of_a_ridge_is_that_of_regressions_on_all_images_but_one() -> None:
    root, targets = drawn(12, 20), drawn(12, 3, seed=1)
    kernel, ridge = root @ root.T, 0.3
    values, vectors = torch.linalg.eigh(kernel)
    weights, error = _ridge(values, vectors, vectors.T @ targets, ridge)
    torch.testing.assert_close(weights, torch.linalg.solve(kernel + ridge * torch.eye(12).double(), targets))
    left = []
    for number in range(12):
        rest = torch.arange(12) != number
        inverse = torch.linalg.inv(kernel[rest][:, rest] + ridge * torch.eye(11).double())
        left.append(kernel[number, rest] @ inverse @ targets[rest] - targets[number])
    torch.testing.assert_close(torch.tensor(error).double(), torch.stack(left).square().mean())


def test_images_that_depend_on_their_features_are_guessed_better_than_by_their_mean() -> None:
    features = drawn(300, 4)
    images = torch.sin(features @ drawn(4, 6, seed=1)).view(300, 2, 3)
    guess = PublicPrior(images[:280]).guess(features[:280], features[280:])
    error, blind = ((own - images[280:]).square().mean() for own in (guess, images[:280].mean(0)))
    assert float(error) < 0.2 * float(blind)
    assert all(ridge > 0 for ridge in _RIDGES)
