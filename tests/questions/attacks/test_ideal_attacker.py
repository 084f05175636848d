"""The ideal attacker against closed forms, Monte Carlo, a search from the truth, and itself computed another way."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from fedsim.questions.attacks.ideal_attacker import (
    Products,
    compute_uncertainty,
    estimate_error,
    left_to_who_knows,
    matrix,
    products,
    restrict_products,
    root_of,
    rounding_noise,
)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64)


def linear(map_: Tensor, noise: float) -> Products:
    inputs = draw(map_.shape[1], seed=1).requires_grad_()
    return products([map_ @ inputs], [inputs], [torch.full((len(map_),), noise, dtype=torch.float64)])


def network(width: int = 12, inputs: int = 9, outputs: int = 4) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, outputs)).double()


def gradient(model: nn.Module, x: Tensor, labels: Tensor, layers: slice = slice(None)) -> list[Tensor]:
    parameters = list(model.parameters())[layers]
    return list(torch.autograd.grad(nn.functional.cross_entropy(model(x), labels), parameters, create_graph=True))


def of_network(model: nn.Module, x: Tensor, labels: Tensor, relative: float, layers: slice = slice(None)) -> Products:
    x = x.detach().requires_grad_()
    sent = gradient(model, x, labels, layers)
    noise = [(relative * own.detach().square().mean().sqrt()).expand(own.shape) for own in sent]
    return products(sent, [x], noise)


def floor(times: Products, n: int, variance: Tensor | None = None) -> float:
    prior = torch.ones(n, dtype=torch.float64) if variance is None else variance
    return float(compute_uncertainty(matrix(times, n), prior).error.mean())


def test_a_linear_map_has_the_closed_form_and_the_posterior_mean_reaches_it() -> None:
    map_, noise, variance = draw(7, 5), 0.3, torch.tensor([1.0, 2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    posterior = torch.linalg.inv(map_.T @ map_ / noise**2 + torch.diag(1 / variance))
    found = compute_uncertainty(matrix(linear(map_, noise), 5, chunk=2), variance)
    assert torch.allclose(found.error, posterior.diagonal(), rtol=1e-6)
    truths = draw(4000, 5, seed=4) * variance.sqrt()
    seen = truths @ map_.T + noise * draw(4000, 7, seed=5)
    errors = (seen @ map_ / noise**2 @ posterior - truths).square().mean(1)
    assert abs(float(errors.mean()) - float(found.error.mean())) < 3 * float(errors.std()) / math.sqrt(4000)


@pytest.mark.parametrize("columns", [1, 3, 12])
def test_a_covariance_of_the_noise_has_the_closed_form_of_a_linear_map(columns: int) -> None:
    map_, spread = draw(7, 5), draw(columns, 7, seed=8)
    noise, inputs = draw(7, seed=9).abs() + 0.1, draw(5, seed=1).requires_grad_()
    covariance = torch.diag(noise.square()) + spread.T @ spread
    expected = map_.T @ torch.linalg.inv(covariance) @ map_
    sent = list((map_ @ inputs).split([3, 4]))
    times = products(sent, [inputs], noise.split([3, 4]), spread.split([3, 4], 1))
    assert torch.allclose(matrix(times, 5), expected, rtol=1e-9)  # double precision
    assert torch.allclose(
        matrix(products(sent, [inputs], noise.split([3, 4]), spread[:0].split([3, 4], 1)), 5),
        map_.T @ (map_ / noise.square()[:, None]),
        rtol=1e-9,
    )


def test_noise_along_the_map_leaves_noise_of_the_inputs_however_small_the_rest_is() -> None:
    """Covariance c^2 J J' + d^2: (A^-1 + c^2)^-1, A = J' J / d^2. At d = 1e-8 the sum of Woodbury's formula cancels."""
    map_, level, rest = draw(40, 5), 0.3, 1e-8
    inputs = draw(5, seed=1).requires_grad_()
    plain = torch.full((40,), rest, dtype=torch.float64)
    times = products([map_ @ inputs], [inputs], [plain], [level * map_.T])
    expected = torch.linalg.inv(rest**2 * torch.linalg.inv(map_.T @ map_) + level**2 * torch.eye(5))
    assert torch.allclose(matrix(times, 5), expected, rtol=1e-6, atol=1e-6)


def test_what_the_ideal_guess_looks_like_is_as_far_from_the_truth_as_the_floor_says() -> None:
    map_, mean = draw(4, 6), torch.zeros(6, dtype=torch.float64)
    variance = torch.full((6,), 2.0, dtype=torch.float64)
    found = compute_uncertainty(matrix(linear(map_, 0.5), 6), variance)
    truths, one = draw(3000, 6, seed=7) * variance.sqrt(), source(8)
    errors = torch.stack([(found.guess(truth, mean, one) - truth).square().mean() for truth in truths])
    assert abs(float(errors.mean()) - float(found.error.mean())) < 3 * float(errors.std()) / math.sqrt(3000)


@pytest.mark.parametrize("relative", [1e-2, pytest.param(1e-1, marks=pytest.mark.slow)])
def test_a_search_from_the_truth_meets_the_floor_of_a_smooth_network(relative: float) -> None:
    """The maximum of the posterior by Gauss-Newton, within 1 dB.

    There are 24 draws of input and noise, so 216 errors, whose mean has a standard deviation of 0.4 dB.
    """
    model, labels, errors, floors = network(), torch.tensor([1]), list[float](), list[float]()
    for number in range(24):
        truth = draw(1, 9, seed=20 + number)
        sent = torch.cat([g.detach().flatten() for g in gradient(model, truth.requires_grad_(), labels)])
        scale = torch.cat(
            [(relative * g.detach().square().mean().sqrt()).expand(g.numel()) for g in gradient(model, truth, labels)]
        )
        noisy = sent + scale * draw(len(sent), seed=70 + number)

        def whitened(x: Tensor, scale: Tensor = scale) -> Tensor:
            own = gradient(model, x[None] if x.requires_grad else x[None].requires_grad_(), labels)
            return torch.cat([g.flatten() for g in own]) / scale

        x = truth.detach()[0]
        for _ in range(4):
            slope = torch.autograd.functional.jacobian(whitened, x, vectorize=True)
            residual = noisy / scale - whitened(x).detach()
            x = x + torch.linalg.solve(slope.T @ slope + torch.eye(9), slope.T @ residual - x)
        errors.append(float((x - truth[0]).detach().square().mean()))
        floors.append(floor(of_network(model, truth, labels, relative), 9))
    assert abs(10 * math.log10(sum(errors) / sum(floors))) < 1.0


def test_less_noise_helps_by_20_db_a_decade_and_not_in_directions_that_nothing_depends_on() -> None:
    map_ = draw(8, 5)
    decades = [floor(linear(map_, noise), 5) for noise in (1e-4, 1e-3, 1e-2)]
    steps = [10 * math.log10(after / before) for before, after in itertools.pairwise(decades)]
    assert steps == pytest.approx([20.0, 20.0], abs=0.01)
    map_[:, 2] = 0.0  # a dead pixel
    variance = torch.full((5,), 3.0, dtype=torch.float64)
    found = compute_uncertainty(matrix(linear(map_, 1e-9), 5), variance)
    assert float(found.error[2]) == 3.0
    assert float(found.error[[0, 1, 3, 4]].max()) < 1e-12
    assert (found.rank, round(found.known_entries)) == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("relative", [1e-3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_estimate_covers_the_exact_figure_and_chunks_change_nothing(relative: float) -> None:
    model, x, labels = network(inputs=30), draw(2, 30, seed=3), torch.tensor([0, 3])
    times, variance = of_network(model, x, labels, relative), torch.full((60,), 1.5, dtype=torch.float64)
    exact = floor(times, 60, variance)
    assert float(compute_uncertainty(matrix(times, 60, chunk=7), variance).error.mean()) == pytest.approx(
        exact, rel=1e-6
    )
    found = estimate_error(times, variance, source(), probes=8, steps=20)
    assert found.low <= exact <= found.high
    whole = estimate_error(times, variance, source(), probes=32, steps=60)
    assert whole.low == pytest.approx(whole.high, rel=0.5)


def test_what_hardly_shows_is_known_as_well_as_its_own_product_says() -> None:
    """A direction that shows a thousand million times less than another, as contrast does behind a normalisation."""
    turned, _ = torch.linalg.qr(draw(12, 12, seed=1))
    sizes = 1e12 * torch.logspace(0, -9, 12, dtype=torch.float64)
    jacobian = torch.linalg.qr(draw(20, 12, seed=2))[0] * sizes @ turned.T

    def times(rows: torch.Tensor) -> torch.Tensor:
        return (rows @ jacobian.T) @ jacobian

    information, ones = matrix(times, 12), torch.ones(12, dtype=torch.float64)
    truth = turned.square() @ (1 / (1 + sizes.square()))
    for found in (
        compute_uncertainty(information, ones, times),
        left_to_who_knows(information, torch.diag(ones), times),
    ):
        assert torch.allclose(found.error, truth, rtol=1e-2, atol=0.0)
    assert float(compute_uncertainty(information, ones).error.max()) > 1e3 * float(truth.max())


def test_a_restricted_product_is_that_of_the_part() -> None:
    times, own = linear(draw(9, 6), 0.5), torch.tensor([True, False, True, True, False, False])
    torch.testing.assert_close(matrix(restrict_products(times, own), 3), matrix(times, 6)[own][:, own])


def test_rounding_is_relative_to_each_tensor_and_never_zero() -> None:
    noise = rounding_noise({"a": torch.tensor([3.0, -3.0]), "b": torch.zeros(2)})
    assert noise["a"].tolist() == pytest.approx([1.8e-7] * 2)
    assert float(noise["b"].min()) > 0


def test_who_knows_how_entries_vary_together_comes_further_and_has_the_closed_form() -> None:
    """The posterior covariance of a Gaussian prior with correlations, for two examples side by side."""
    map_, noise, examples = draw(5, 6), 0.4, draw(500, 3, seed=2) @ draw(3, 3, seed=3)
    information = matrix(linear(map_, noise), 6)
    root = root_of(examples, ridge=1e-6)
    covariance = torch.cov(examples.T, correction=0)
    assert torch.allclose(root @ root, covariance, rtol=1e-4, atol=1e-4)
    prior = torch.block_diag(root @ root, root @ root)
    posterior = torch.linalg.inv(map_.T @ map_ / noise**2 + torch.linalg.inv(prior))
    found = left_to_who_knows(information, root)
    assert torch.allclose(found.error, posterior.diagonal(), rtol=1e-6)
    assert float(found.error.mean()) <= float(compute_uncertainty(information, prior.diagonal()).error.mean())
    whitener = torch.linalg.cholesky(prior)
    mean, one = torch.zeros(6, dtype=torch.float64), source(8)
    truths = draw(2000, 6, seed=7) @ whitener.T
    errors = torch.stack([(found.guess(truth, mean, one) - truth).square().mean() for truth in truths])
    assert abs(float(errors.mean()) - float(found.error.mean())) < 3 * float(errors.std()) / math.sqrt(2000)


def test_fewer_layers_more_examples_and_hidden_masks_never_help() -> None:
    model, x = network(), draw(3, 9, seed=9)
    labels = torch.tensor([0, 1, 2])
    whole = floor(of_network(model, x[:1], labels[:1], 1e-2), 9)
    for layers in (slice(0, 2), slice(2, 4), slice(0, 1)):
        assert floor(of_network(model, x[:1], labels[:1], 1e-2, layers), 9) >= whole
    batch = of_network(model, x, labels, 1e-2)
    assert float(compute_uncertainty(matrix(batch, 27), torch.ones(27, dtype=torch.float64)).error[:9].mean()) >= whole


def test_masks_that_are_not_told_never_help() -> None:
    model, x = network(), draw(1, 9, seed=9).requires_grad_()
    mask = torch.ones(1, 12, dtype=torch.float64, requires_grad=True)
    hidden = torch.nn.functional.gelu(model[0](x)) * mask  # type: ignore[operator]
    loss = nn.functional.cross_entropy(model[2](hidden), torch.tensor([1]))  # type: ignore[operator]
    sent = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    noise = [torch.full(own.shape, 1e-2, dtype=torch.float64) for own in sent]
    told = floor(products(sent, [x], noise), 9)
    variance = torch.cat([torch.ones(9), torch.full((12,), 0.25)]).double()
    untold = compute_uncertainty(matrix(products(sent, [x, mask], noise), 21), variance).error[:9].mean()
    assert float(untold) > told
