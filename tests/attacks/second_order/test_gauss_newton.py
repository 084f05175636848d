"""Second-order steps: derivatives against finite differences, solutions against the truth and against the bound."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.core.client_gradient import client_gradient
from attacks.core.labels import labels_of
from attacks.second_order._client import Client
from attacks.second_order._equations import Equations
from attacks.second_order._layout import Layout, masks_to_solve
from attacks.second_order._levenberg_marquardt import Limits
from attacks.second_order._levenberg_marquardt import solve as solve_equations
from attacks.second_order._patterns import pattern_near
from attacks.second_order._switches import switch_units
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Masks, Observation, PublicKnowledge, Reconstruction, Truth
from fedsim.scenario.world import World
from tests.attacks.solving import answer

Toy = Callable[..., tuple[Observation, Truth]]
Watched = Callable[..., tuple[Observation, Truth, World]]
NAME = "gauss-newton"
ALL = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")
SMOOTH = {"name": "mlp", "width": 24, "depth": 2, "activation": "sigmoid", "bias": True, "dropout": 0.0}


@pytest.fixture
def toy(toy: Toy) -> Toy:
    """Random inputs are no images: a standard deviation of a tenth leaves room for them in the pixel range."""

    def build(*args: Any, **settings: Any) -> tuple[Observation, Truth]:
        observation, truth = toy(*args, **settings)
        return replace(observation, spec=replace(observation.spec, std=(0.1,) * len(observation.spec.std))), truth

    return build


def lenet(channels: int = 1, side: int = 28, width: int = 12, rate: float = 0.0, activation: Any = nn.Sigmoid):
    """The LeNet of the literature on gradient inversion: strides 2, 2 and 1."""
    with seeding.isolate_randomness(0):
        return nn.Sequential(
            *(nn.Conv2d(channels, width, 5, 2, 2), activation(), nn.Conv2d(width, width, 5, 2, 2), activation()),
            *(nn.Conv2d(width, width, 5, 1, 2), activation(), nn.Flatten(), nn.Dropout(rate)),
            nn.Linear(width * (-(-side // 4)) ** 2, 10),
        )


def solve(observation: Observation, **settings: Any) -> Reconstruction:
    method = registry.get("attack", NAME)
    return answer(method.make(method.config.model_validate(settings)), observation)


def equations_of(observation: Observation) -> Equations:
    return Equations(observation, Layout(observation, masks_to_solve(observation)), labels_of(observation))


def distances(guess: Reconstruction, truth: Truth) -> Tensor:
    """Root mean square error of each image at its closest guess of the same label."""
    batch = truth.batches[0]
    errors = (batch.inputs[:, None] - guess.inputs[None]).square().flatten(2).mean(2).sqrt()
    return errors.masked_fill(batch.labels[:, None] != guess.labels[None], math.inf).min(1).values


def test_a_digit_comes_back_through_three_convolutions_in_a_few_steps(toy: Toy) -> None:
    digits = registry.get("dataset", "mnist5k")
    data = digits.make(digits.config())
    observation, _ = toy(lenet(), (1, 28, 28), 1, classes=10, dtype=torch.float32)
    image, label = data.train.inputs[:1], data.train.labels[:1]
    tensors = client_gradient(observation, image, label, None)
    seen = replace(observation, labels=None, spec=data.spec, update=replace(observation.update, tensors=tensors))
    guess = solve(seen)
    assert -10 * math.log10(float((guess.inputs - image).square().mean()) * data.spec.std[0] ** 2) > 80
    assert guess.labels.tolist() == label.tolist()
    assert guess.is_exact
    assert guess.iterations <= 10


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_simulated_client_computes_what_autograd_computes(toy: Toy, rate: float) -> None:
    observation, truth = toy(lenet(1, 8, 4, rate), (1, 8, 8), 3, classes=10)
    batch, masks = truth.batches[0], truth.masks[0]
    ours = Client(observation).gradient(batch.inputs, batch.labels, (masks,))
    theirs = client_gradient(observation, batch.inputs, batch.labels, masks)
    torch.testing.assert_close(ours, torch.cat([own.flatten() for own in theirs.values()]))


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_jacobian_is_that_of_finite_differences_and_of_the_products(toy: Toy, rate: float) -> None:
    observation, _ = toy(lenet(1, 8, 4, rate), (1, 8, 8), 2, classes=10)
    equations, generator = equations_of(observation), torch.Generator().manual_seed(1)
    at = equations.unknowns.start(generator, 0.5)
    rows, here, step = equations.jacobian(at), equations.linearise(at), 1e-5
    changes = torch.randn((4, len(at)), generator=generator, dtype=torch.float64)
    for change in changes:
        measured = (equations.residual(at - step * change) - equations.residual(at + step * change)) / (2 * step)
        torch.testing.assert_close(change @ rows, measured, rtol=1e-6, atol=1e-7)  # error of order step^2
        torch.testing.assert_close(here.forward(change), change @ rows)
    torch.testing.assert_close(here.backward(here.residual), rows @ here.residual)
    assert len(equations.parts) == 2


def test_examples_that_batch_statistics_couple_stay_together(toy: Toy) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4))
    observation, truth = toy(model, (1, 4, 4), 3)
    equations = equations_of(observation)
    assert len(equations.parts) == 1
    residual = equations.residual(truth.batches[0].inputs.flatten())
    assert float(residual.norm()) < 1e-12


@pytest.mark.parametrize("size", [1, 2])
def test_matrix_free_and_dense_solutions_are_equal(toy: Toy, size: int) -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), size, classes=10)
    dense, free = solve(observation), solve(observation, dense=0)
    assert dense.notes[0] != free.notes[0]
    assert float(distances(dense, truth).max()) < 1e-6
    assert float(distances(free, truth).max()) < 1e-6


@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus])
def test_smooth_activations_are_solved(toy: Toy, activation: type[nn.Module]) -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=activation), (1, 8, 8), 1, classes=10)
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-6
    assert guess.stopped == "the equations hold up to rounding"


@pytest.mark.parametrize(
    ("activation", "size", "rate"),
    [(nn.ReLU, 1, 0.5), (nn.LeakyReLU, 1, 0.0), pytest.param(nn.ReLU, 2, 0.0, marks=pytest.mark.slow)],
)
def test_units_that_switch_are_solved_for(toy: Toy, activation: type[nn.Module], size: int, rate: float) -> None:
    observation, truth = toy(lenet(1, 8, 12, rate, activation), (1, 8, 8), size, classes=10, dtype=torch.float32)
    guess = solve(observation)
    assert guess.is_exact
    assert float(distances(guess, truth).max()) < 1e-4
    assert [tuple(mask.shape) for mask in guess.masks or ()] == [site.shape for site in observation.sites]


def test_switches_in_place_and_as_functions_are_found(toy: Toy) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 36, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = nn.functional.leaky_relu(self.first(inputs), 0.2)
            return self.last(torch.relu_(hidden + 0.1).flatten(1))

    observation, _ = toy(Block(), (1, 6, 6), 1)
    smooth, switches = switch_units(observation)
    assert switches == (0, 1)
    assert [site.shape for site in smooth.sites] == [(1, 8, 6, 6)] * 2
    assert list(dict(smooth.model.named_parameters())) == list(observation.update.tensors)


@pytest.mark.parametrize("size", [1, 2])
def test_unknown_masks_come_out_with_the_images(toy: Toy, size: int) -> None:
    observation, truth = toy(lenet(1, 8, 12, 0.5), (1, 8, 8), size, classes=10)
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-6
    order = [int((guess.inputs - image).flatten(1).norm(dim=1).argmin()) for image in truth.batches[0].inputs]
    assert guess.masks is not None
    torch.testing.assert_close(guess.masks[0][order], truth.masks[0][0], atol=1e-6, rtol=0)
    free = size * 48 - int((truth.masks[0][0] == 0).all(0).sum()) * size
    assert guess.facts["unknowns"] == 64 * size + (free if size > 1 else 0)


def test_several_steps_with_momentum_are_unrolled(watched: Watched) -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.5}
    observation, truth, _ = watched(
        model=SMOOTH,
        partition={"scheme": "resampled", "examples_per_client": 1},
        federation={"algorithm": "fedavg", "local_steps": 3, "batch_size": 1, "optimizer": optimizer},
    )
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-2  # a change of weights has the rounding of the weights
    assert guess.stopped == "the equations hold up to rounding"
    assert guess.facts["restarts"] == 1


def test_entries_that_were_not_sent_are_no_equations(watched: Watched) -> None:
    pruning = [{"name": "pruning", "rate": 0.5}]
    observation, truth, _ = watched(model=SMOOTH, knows=ALL, defenses=pruning)
    guess = solve(observation)
    sent = sum(int(own.count_nonzero()) for own in observation.update.tensors.values())
    assert guess.facts["equations"] == sent
    assert float(distances(guess, truth).max()) < 1e-3
    assert not guess.is_exact


def test_hidden_layers_are_left_out(watched: Watched) -> None:
    observation, truth, _ = watched(model=SMOOTH, threat={"shares": ["4.*", "1.*"]})
    assert float(distances(solve(observation), truth).max()) < 1e-3


@pytest.mark.parametrize("activation", [nn.GELU, nn.Softplus])
def test_the_last_linearisations_square_the_error(toy: Toy, activation: type[nn.Module]) -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=activation), (1, 8, 8), 1, classes=10)
    equations, image = equations_of(observation), truth.batches[0].inputs.flatten()
    start = equations.unknowns.start(torch.Generator().manual_seed(0), 0.1)
    errors = [float((start - image).norm() / image.norm())]
    solve_equations(
        equations,
        start,
        Limits(iterations=30, products=1, dense=10**9, converged=1e-26),
        lambda _iteration, _objective, values: errors.append(float((values - image).norm() / image.norm())),
    )
    assert errors[-1] < 1e-12
    for before, after in list(pairwise(errors))[-3:]:
        assert after < 10.0 * before**2 + 1e-13  # rounding; curvature is of order 1 in normalised units


@pytest.mark.parametrize("level", [1e-2, 1e-1])
def test_the_error_under_noise_meets_the_ceiling_of_the_ideal_attacker(toy: Toy, level: float) -> None:
    """To first order at the truth no estimator has a lower mean squared error than tr((J^T S^-1 J + I)^-1) / n."""
    with seeding.isolate_randomness(0):
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 10)
        )
    errors, floors = [], []
    for seed in range(4):
        observation, truth = toy(model, (1, 8, 8), 1, classes=10, seed=seed)
        tensors, generator = observation.update.tensors, torch.Generator().manual_seed(seed)
        size = torch.cat([own.flatten() for own in tensors.values()]).square().mean().sqrt()
        noisy = {name: own + level * size * torch.randn(own.shape, generator=generator, dtype=own.dtype)
                 for name, own in tensors.items()}  # fmt: skip
        told = PublicKnowledge("gradient-noise", {"noise_law": "gaussian", "noise_scale": level * float(size)})
        seen = replace(observation, update=replace(observation.update, tensors=noisy), public=(told,))
        errors.append(float(distances(solve(seen), truth).square()))
        rows = equations_of(seen).jacobian(truth.batches[0].inputs.flatten())
        floors.append(float((rows @ rows.T + torch.eye(64)).inverse().diagonal().mean()))
    assert abs(10 * math.log10(sum(errors) / sum(floors))) < 1.0  # dB: 256 squared errors leave 0.4 dB


def test_under_noise_the_error_is_that_of_the_bound(watched: Watched) -> None:
    errors, floors = [], []
    for client in range(2):
        observation, truth, _ = watched(
            client=client, model=SMOOTH, knows=ALL, defenses=[{"name": "gradient-noise", "scale": 1e-3}]
        )
        guess = solve(observation)
        assert guess.facts["restarts"] == 1
        errors.append(float(distances(guess, truth).square()))
        equations = equations_of(observation)
        rows = equations.jacobian(truth.batches[0].inputs.flatten().double())
        floors.append(float((rows @ rows.T + torch.eye(64)).inverse().diagonal().mean()))
    ratio = 10 * math.log10(sum(errors) / sum(floors))
    assert abs(ratio) < 1.5  # dB: 128 squared errors leave a deviation of half a dB


def test_what_it_cannot_solve_it_refuses(toy: Toy, watched: Watched) -> None:
    smooth = toy(lenet(1, 8, 4), (1, 8, 8), 2, classes=10)[0]
    dropping = toy(lenet(1, 8, 4, 0.5), (1, 8, 8), 1, classes=10)[0]
    unaware = replace(dropping, threat=replace_knowledge(dropping, "dropout-rates"))
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4))
    few = {"8.bias": smooth.update.tensors["8.bias"]}
    cases = {
        "no smooth function of the inputs": toy(pooled, (1, 8, 8), 1)[0],
        "rates that are not known": unaware,
        "10 equations for 128 unknowns": replace(smooth, update=replace(smooth.update, tensors=few)),
        "in an order that is not known": replace(smooth, local_steps=2, batch_sizes=(1, 1), examples=2),
        "signs alone": replace(smooth, public=(PublicKnowledge("signs", {"signs": True}),)),
    }
    for reason, refused in cases.items():
        method = registry.get("attack", NAME)
        verdict = method.make(method.config()).fits(refused)
        assert not verdict.holds
        assert reason in verdict.reason


def replace_knowledge(observation: Observation, missing: str) -> Any:
    threat = observation.threat
    return threat.model_copy(update={"knows": tuple(own for own in threat.knows if own != missing)})


def test_a_gradient_of_noise_is_not_called_solved(toy: Toy, without_information: Any) -> None:
    observation, truth = toy(lenet(1, 8, 4), (1, 8, 8), 1, classes=10)
    guess = solve(without_information(observation), restarts=1)
    assert not guess.is_exact
    assert guess.objective > 0.1
    assert guess.stopped != "the equations hold up to rounding"
    assert float(distances(guess, truth).min()) > 0.5


def test_inputs_outside_of_the_pixel_range_are_found_without_it(toy: Toy) -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), 1, classes=10)
    narrow = replace(observation, spec=replace(observation.spec, std=(0.5,)))
    assert float(truth.batches[0].inputs.abs().max()) > 2.0
    guess = solve(narrow, max_iterations=10)
    assert float(distances(guess, truth).max()) < 1e-6
    assert guess.facts["restarts"] == 1


def test_models_without_derivatives_are_refused(toy: Toy) -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, inputs: Tensor) -> Tensor:
            return 2.0 * inputs

        @staticmethod
        def backward(_ctx: Any, gradient: Tensor) -> Tensor:
            return 2.0 * gradient

    class Layer(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return Doubled.apply(inputs)

    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), Layer(), nn.Linear(12, 4)), (1, 4, 4), 1)
    with pytest.raises(NotApplicable, match="no derivative that can be taken"):
        solve(observation)


def go_on(observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks | None = None) -> Reconstruction:
    """Let it go on from a guess."""
    method, guess = registry.get("attack", NAME), Reconstruction.of(inputs, labels, masks=masks)
    generator = torch.Generator().manual_seed(0)
    return method.make(method.config()).continue_from(observation, guess, generator, lambda _step: None)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_blurred_guess_fixes_most_switches_of_a_relu_network(toy: Toy, rate: float) -> None:
    """Too few entries for all switches at once: one filter a layer has a fifth of what a start from grey needs."""
    model = lenet(1, 12, 4, rate, nn.ReLU)
    observation, truth = toy(model, (1, 12, 12), 1, classes=10)
    batch, generator = truth.batches[0], torch.Generator().manual_seed(1)
    blurred = batch.inputs + 0.02 * torch.randn(batch.inputs.shape, generator=generator, dtype=torch.float64)
    guess = go_on(observation, blurred, batch.labels, truth.masks[0])
    assert guess.is_exact
    assert float(distances(guess, truth).max()) < 1e-6
    smooth, _ = switch_units(observation)
    assert guess.facts["unknowns"] < 0.7 * Layout(smooth, masks_to_solve(smooth)).size


def test_a_wide_enough_margin_frees_the_switches_that_a_guess_has_wrong(toy: Toy) -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=nn.ReLU), (1, 8, 8), 1, classes=10)
    batch = truth.batches[0]
    smooth, switches = switch_units(observation)
    true, near = (
        pattern_near(observation, smooth, switches, inputs, None, margin)
        for inputs, margin in ((batch.inputs, 0.0), (batch.inputs + 0.05, 0.2))
    )
    known = pattern_near(observation, smooth, switches, batch.inputs + 0.05, None, 0.0)
    assert any(not torch.equal(own, other) for own, other in zip(known.masks, true.masks, strict=True))
    for own, other in zip(near.masks, true.masks, strict=True):
        kept = ~own.isnan()
        assert torch.equal(own[kept], other[kept])


def test_a_guess_that_says_nothing_about_switches_is_refused(toy: Toy) -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=nn.ReLU), (1, 8, 8), 1, classes=10)
    with pytest.raises(NotApplicable, match="too far from the observed one"):
        go_on(observation, -3.0 * truth.batches[0].inputs, truth.batches[0].labels)


def test_a_part_of_a_batch_is_a_start_for_the_rest(toy: Toy) -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), 3, classes=10)
    batch = truth.batches[0]
    guess = go_on(observation, batch.inputs[[2]], batch.labels[[2]])
    assert guess.is_exact
    assert float(distances(guess, truth).max()) < 1e-6
    with pytest.raises(NotApplicable, match="holds 4 examples, not 3"):
        go_on(observation, batch.inputs[[0, 1, 2, 2]], batch.labels[[0, 1, 2, 2]])
