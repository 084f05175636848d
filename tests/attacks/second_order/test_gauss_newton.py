"""Second-order steps: solutions against the truth and against the bound."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.second_order._equations import Equations
from attacks.second_order._layout import UnknownsLayout, masks_to_solve
from attacks.second_order._levenberg_marquardt import SolverLimits
from attacks.second_order._levenberg_marquardt import solve as solve_equations
from attacks.second_order._patterns import pattern_near
from attacks.second_order._switches import switch_units
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Masks, MethodDescription, Observation, Reconstruction
from fedsim.core.types.effects import AddedNoise, SignsOnly
from tests.attacks.second_order.solved import ALL, NAME, SMOOTH, distances, equations_of, lenet, solve, toy
from tests.attacks.solving import sending, without_information
from tests.federating import scenario, watched
from tests.tasks.targets import BLIND, attacked, scored, victim

CONVOLVED = {"name": "window-convnet"}


def replace_knowledge(observation: Observation, missing: str) -> Any:
    threat = observation.threat
    return threat.model_copy(update={"knows": tuple(own for own in threat.knows if own != missing)})


@pytest.mark.parametrize(
    "activation",
    [
        nn.Tanh,
        pytest.param(nn.SiLU, marks=pytest.mark.slow),
        pytest.param(nn.GELU, marks=pytest.mark.slow),
        pytest.param(nn.Softplus, marks=pytest.mark.slow),
    ],
)
def test_smooth_activations_are_solved(activation: type[nn.Module]) -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=activation), (1, 8, 8), 1, classes=10)
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-6
    assert guess.stop_reason == "the equations hold up to rounding"


@pytest.mark.parametrize("grants", [(), pytest.param(("labels",), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("data", "model", "metric", "target"),
    [
        ("made-series", CONVOLVED, "row_exact", "target_read"),
        ("made-series", {**CONVOLVED, "dropout": 0.5}, "row_exact", "target_read"),
        ("diabetes", SMOOTH, "row_exact", "target_read"),
        ("digit-traits", SMOOTH, "exact_pixels", "set_read"),
        ("digit-masks", {"name": "mask-mlp"}, "exact_pixels", "mask_iou"),
        ("digit-heads", SMOOTH, "exact_pixels", "heads_read"),
    ],
)
def test_clients_whose_labels_are_no_classes_are_solved(
    data: str, model: dict[str, Any], metric: str, target: str, grants: tuple[str, ...]
) -> None:
    one = victim(scenario, 1, data={"name": data}, model=model)
    guess = attacked(one, NAME, (*grants, *BLIND))
    assert guess.is_exact
    (scores,) = scored(one, guess).scores
    assert scores.values[metric] == scores.values[target] == 1.0


@pytest.mark.parametrize(("size", "task"), [(2, {"name": "series"}), (1, {"name": "series", "loss": "absolute"})])
def test_targets_that_the_output_layer_does_not_tell_must_be_granted(size: int, task: dict[str, Any]) -> None:
    one = victim(scenario, size, data={"name": "made-series"}, model=CONVOLVED, task=task)
    with pytest.raises(
        NotApplicable, match=r"labels are numbers, .* only for a single example, .* Add 'labels' to threat"
    ):
        attacked(one, NAME)


def test_a_window_that_dependent_equations_leave_open_is_not_called_exact() -> None:
    narrow = {**CONVOLVED, "channels": 1, "depth": 1, "pooling": "mean"}
    one = victim(scenario, 1, data={"name": "made-series", "times": 10}, model=narrow)
    guess = attacked(one, NAME, BLIND)
    assert guess.diagnostics["equations"] > guess.diagnostics["unknowns"]
    assert guess.stop_reason == "the equations hold up to rounding"
    assert not guess.is_exact
    assert "the equations hold for other examples too: entries of the update depend on each other" in guess.notes
    assert scored(one, guess).scores[0].values["row_exact"] == 0.0


@pytest.mark.parametrize("most", [1, pytest.param(3, marks=pytest.mark.slow), 20])
def test_it_takes_as_many_steps_as_it_may_and_a_jacobian_a_step(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    observation, _ = toy(lenet(1, 8, 12, 0.5), (1, 8, 8), 1, classes=10)
    formed, jacobian = list[Tensor](), Equations.jacobian
    monkeypatch.setattr(Equations, "jacobian", lambda one, values: formed.append(values) or jacobian(one, values))
    guess = solve(observation, max_iterations=most, restarts=1)
    assert guess.iterations <= most
    assert len(formed) == guess.iterations
    assert guess.is_exact or most < 20


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_unknown_masks_come_out_with_the_images(size: int) -> None:
    observation, truth = toy(lenet(1, 8, 12, 0.5), (1, 8, 8), size, classes=10)
    guess = solve(observation)
    assert float(distances(guess, truth).max()) < 1e-6
    order = [int((guess.inputs - image).flatten(1).norm(dim=1).argmin()) for image in truth.batches[0].inputs]
    torch.testing.assert_close(guess.masks[0][order], truth.masks[0][0], atol=1e-6, rtol=0)
    free = size * 48 - int((truth.masks[0][0] == 0).all(0).sum()) * size
    assert guess.diagnostics["unknowns"] == 64 * size + (free if size > 1 else 0)


def test_what_it_cannot_solve_it_refuses() -> None:
    smooth = toy(lenet(1, 8, 4), (1, 8, 8), 2, classes=10)[0]
    dropping = toy(lenet(1, 8, 4, 0.5), (1, 8, 8), 1, classes=10)[0]
    unaware = replace(dropping, threat=replace_knowledge(dropping, "dropout-rates"))
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4))
    few = {"8.bias": smooth.update.tensors["8.bias"]}
    cases = {
        "no smooth function of the inputs": toy(pooled, (1, 8, 8), 1)[0],
        "rates that are not known": unaware,
        "10 equations for 128 unknowns": sending(smooth, few),
        "in an order that is not known": replace(smooth, local_steps=2, batch_sizes=(1, 1), examples=2),
        "signs alone": replace(smooth, known_methods=(MethodDescription("signs", (SignsOnly(),)),)),
    }
    for reason, refused in cases.items():
        method = registry.get("attack", NAME)
        verdict = method.make(method.config()).fits(refused)
        assert not verdict.holds
        assert reason in verdict.reason


def test_a_gradient_of_noise_is_not_called_solved() -> None:
    observation, truth = toy(lenet(1, 8, 4), (1, 8, 8), 1, classes=10)
    guess = solve(without_information(observation), max_restart_unknowns=0)
    assert guess.diagnostics["restarts"] == 1
    assert not guess.is_exact
    assert guess.objective > 0.1
    assert guess.stop_reason != "the equations hold up to rounding"
    assert float(distances(guess, truth).min()) > 0.5


def test_inputs_outside_of_the_pixel_range_are_found_without_it() -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), 1, classes=10)
    narrow = replace(observation, spec=replace(observation.spec, std=(0.5,)))
    assert float(truth.batches[0].inputs.abs().max()) > 2.0
    guess = solve(narrow, max_iterations=10)
    assert float(distances(guess, truth).max()) < 1e-6
    assert guess.diagnostics["restarts"] == 1


@pytest.mark.parametrize("activation", [nn.GELU, nn.Softplus])
def test_the_last_linearisations_square_the_error(activation: type[nn.Module]) -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=activation), (1, 8, 8), 1, classes=10)
    equations, image = equations_of(observation), truth.batches[0].inputs.flatten()
    start = equations.unknowns.start(torch.Generator().manual_seed(0), 0.1)
    errors = [float((start - image).norm() / image.norm())]
    solve_equations(
        equations,
        start,
        SolverLimits(iterations=30, products=1, dense=10**9, convergence_threshold=1e-26),
        lambda _iteration, _objective, values: errors.append(float((values - image).norm() / image.norm())),
    )
    assert errors[-1] < 1e-12
    for before, after in list(pairwise(errors))[-3:]:
        assert after < 10.0 * before**2 + 1e-13  # rounding; curvature is of order 1 in normalised units


@pytest.mark.parametrize("level", [1e-2, pytest.param(1e-1, marks=pytest.mark.slow)])
def test_the_error_under_noise_meets_the_ceiling_of_the_ideal_attacker(level: float) -> None:
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
        told = MethodDescription("gradient-noise", (AddedNoise("gaussian", level * float(size)),))
        seen = sending(observation, noisy, known_methods=(told,))
        errors.append(float(distances(solve(seen), truth).square()))
        rows = equations_of(seen).jacobian(truth.batches[0].inputs.flatten())
        floors.append(float((rows @ rows.T + torch.eye(64)).inverse().diagonal().mean()))
    assert abs(10 * math.log10(sum(errors) / sum(floors))) < 1.0  # dB: 256 squared errors leave 0.4 dB


def go_on(observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks | None = None) -> Reconstruction:
    """Let it go on from a guess."""
    method, guess = registry.get("attack", NAME), Reconstruction.of(inputs, labels, masks=masks)
    generator = torch.Generator().manual_seed(0)
    return method.make(method.config()).search_from(observation, guess, generator, lambda _step: None)


@pytest.mark.parametrize("rate", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_blurred_guess_fixes_most_switches_of_a_relu_network(rate: float) -> None:
    """Too few entries for all switches at once: one filter a layer has a fifth of what a start from grey needs."""
    model = lenet(1, 12, 4, rate, nn.ReLU)
    observation, truth = toy(model, (1, 12, 12), 1, classes=10)
    batch, generator = truth.batches[0], torch.Generator().manual_seed(1)
    blurred = batch.inputs + 0.02 * torch.randn(batch.inputs.shape, generator=generator, dtype=torch.float64)
    guess = go_on(observation, blurred, batch.labels, truth.masks[0])
    assert guess.is_exact
    assert float(distances(guess, truth).max()) < 1e-6
    smooth, _ = switch_units(observation)
    assert guess.diagnostics["unknowns"] < 0.7 * UnknownsLayout(smooth, masks_to_solve(smooth)).size


def test_a_wide_enough_margin_frees_the_switches_that_a_guess_has_wrong() -> None:
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


def test_a_guess_that_says_nothing_about_switches_is_refused() -> None:
    observation, truth = toy(lenet(1, 8, 8, activation=nn.ReLU), (1, 8, 8), 1, classes=10)
    with pytest.raises(NotApplicable, match="too far from the observed one"):
        go_on(observation, -3.0 * truth.batches[0].inputs, truth.batches[0].labels)


def test_a_part_of_a_batch_is_a_start_for_the_rest() -> None:
    observation, truth = toy(lenet(1, 8, 8), (1, 8, 8), 3, classes=10)
    batch = truth.batches[0]
    guess = go_on(observation, batch.inputs[[2]], batch.labels[[2]])
    assert guess.is_exact
    assert float(distances(guess, truth).max()) < 1e-6
    with pytest.raises(NotApplicable, match="holds 4 examples, not 3"):
        go_on(observation, batch.inputs[[0, 1, 2, 2]], batch.labels[[0, 1, 2, 2]])


@pytest.mark.parametrize(("factor", "formed"), [(0.5, 1), (2.5, 2)])
def test_columns_of_its_jacobians_count_as_gradients(
    monkeypatch: pytest.MonkeyPatch, factor: float, formed: int
) -> None:
    """The first step is always taken; noise keeps all later ones from an early end."""
    observation, _ = toy(lenet(1, 8, 8), (1, 8, 8), 1, classes=10)
    noise = MethodDescription("noise", (AddedNoise("gaussian", 1e-3),))
    jacobian, columns = Equations.jacobian, list[int]()

    def count(equations: Equations, values: Tensor) -> Tensor:
        columns.append(equations.unknowns.size)
        return jacobian(equations, values)

    monkeypatch.setattr(Equations, "jacobian", count)
    size = UnknownsLayout(observation, masks_to_solve(observation)).size
    solve(replace(observation, known_methods=(noise,)), gradients=round(factor * size), restarts=3)
    assert columns == [size] * formed


def test_under_noise_the_error_is_that_of_the_bound() -> None:
    errors, floors = [], []
    for client in range(2):
        observation, truth, _ = watched(
            client=client, model=SMOOTH, knows=ALL, defenses=[{"name": "gradient-noise", "scale": 1e-3}]
        )
        guess = solve(observation)
        assert guess.diagnostics["restarts"] == 1
        errors.append(float(distances(guess, truth).square()))
        equations = equations_of(observation)
        rows = equations.jacobian(truth.batches[0].inputs.flatten().double())
        floors.append(float((rows @ rows.T + torch.eye(64)).inverse().diagonal().mean()))
    ratio = 10 * math.log10(sum(errors) / sum(floors))
    assert abs(ratio) < 1.5  # dB: 128 squared errors leave a deviation of half a dB
