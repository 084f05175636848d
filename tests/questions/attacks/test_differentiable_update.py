"""What a server got as a function of the examples, beside a local training that is written down here."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import functional_call

from fedsim.core.examples import example_indices
from fedsim.core.types import Truth, WireEntry
from fedsim.federation.client import local_training
from fedsim.questions.attacks import differentiable_update
from fedsim.questions.attacks import ideal_attacker as ideal
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.questions.attacks.differentiable_update import sent_of
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.replay import replay
from fedsim.threat.victim import Victim
from tests.experiment.running import Build

SMALL = {"name": "mlp", "width": 4, "depth": 2, "dropout": 0.0}
DYING = {**SMALL, "width": 2, "activation": "relu"}  # units without a gradient
NOISE = {"name": "gradient-noise", "scale": 1e-2, "relative": True}
STEPS = {"algorithm": "fedavg", "local_steps": 2}


def single(scenario: Build, **tables: Any) -> Victim:
    world = worlds.build(scenario(**{"model": SMALL, **tables}))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    return Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth)


def summed(scenario: Build, clients: int = 2, **tables: Any) -> Victim:
    """Return the sum of a round's clients as the server saw it."""
    federation = {**tables.pop("federation", {}), "clients": clients}
    world = worlds.build(scenario(**{"model": SMALL, "threat": {"view": "sum"}, "federation": federation, **tables}))
    received = world.models.first_weights
    sent = [local_training(world, received, 1, client)[0] for client in range(clients)]
    entry = WireEntry(1, 0, received, sent[0], tuple(range(clients)))
    return Victim(world, entry, replay(world, entry).truth)


def change(world: World, truth: Truth, places: Sequence[Tensor], rate: float, momentum: float) -> Callable[..., Tensor]:
    """Return the function from examples (N, *shape) to the flat change of the weights, in double precision."""
    model = world.models.load_weights(world.models.first_weights)
    first = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}

    def trained(inputs: Tensor) -> Tensor:
        weights, velocity = first, {name: torch.zeros_like(p) for name, p in first.items()}
        for batch, place in zip(truth.batches, places, strict=True):
            scores = functional_call(model, weights, (inputs[place],))
            loss = torch.nn.functional.cross_entropy(scores, batch.labels)
            gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            velocity = {name: momentum * v + g for (name, v), g in zip(velocity.items(), gradient, strict=True)}
            weights = {name: w - rate * velocity[name] for name, w in weights.items()}
        return torch.cat([(first[name] - weights[name]).flatten() for name in first])

    return trained


def information(victim: Victim) -> Tensor:
    sent = sent_of(victim)
    return ideal.matrix(ideal.products(sent.tensors, [sent.inputs], sent.noise, sent.spread), sent.inputs.numel())


def noise(victim: Victim) -> Tensor:
    return torch.cat([own.flatten() for own in sent_of(victim).noise])


def spread(victim: Victim) -> Tensor:
    """The columns of the covariance side by side, (k, P)."""
    return torch.cat([own.flatten(1) for own in sent_of(victim).spread], 1)


def slopes(victim: Victim) -> tuple[Tensor, Tensor]:
    """J (P, n) of what is sent without noise, and that, of the victim's model written down here."""
    world, (batch,) = victim.world, victim.truth.batches
    model = world.models.load_weights(victim.entry.received_weights)
    first = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}

    def gradient(inputs: Tensor) -> Tensor:
        loss = torch.nn.functional.cross_entropy(functional_call(model, first, (inputs,)), batch.labels)
        return torch.cat([own.flatten() for own in torch.autograd.grad(loss, list(first.values()), create_graph=True)])

    inputs = batch.inputs.double()
    found = jacobian(gradient, inputs)
    assert isinstance(found, Tensor)
    return found.flatten(1), gradient(inputs).detach()


@pytest.mark.parametrize("rate", [None, 0.5])
def test_shaped_noise_is_a_covariance_and_the_ideal_attacker_whitens_it(scenario: Build, rate: float | None) -> None:
    """To first order it is noise of the images, of the size that the norm of the noise fixes, beside rounding."""
    sgd = {"name": "sgd", "learning_rate": rate}
    steps = {} if rate is None else {"algorithm": "fedavg", "local_steps": 1, "optimizer": sgd}
    victim = single(scenario, defenses=[{"name": "shaped-noise", "scale": 0.3}], federation=steps)
    derivative, gradient = slopes(victim)
    factor, level = 1.0 if rate is None else rate, 0.3 * float(gradient.norm() / derivative.norm())
    columns = level * factor * derivative.T
    told = columns.any(1)  # a pixel that is the same in all images tells nothing
    torch.testing.assert_close(spread(victim), columns[told], rtol=1e-6, atol=1e-9)
    sent = factor * derivative / noise(victim)[:, None]
    values, vectors = torch.linalg.eigh(sent.T @ sent)
    # With J' D^-1 J = V v V' and noise of covariance c^2 J J' beside D, J' S^-1 J = V v / (1 + c^2 v) V'.
    expected = (vectors * (values / (1 + level**2 * values))) @ vectors.T
    torch.testing.assert_close(information(victim), expected, rtol=1e-6, atol=1e-6 * float(expected.max()))
    limit = 1 / level**2  # of who knew everything but the noise
    assert float(torch.linalg.eigvalsh(information(victim))[-1]) == pytest.approx(limit, rel=1e-3)


def test_each_client_of_a_sum_draws_noise_of_its_own(scenario: Build) -> None:
    """Half of each client's columns, which the other client's do not cancel: S of the sum is the sum of S / 4."""
    shaped = [{"name": "shaped-noise", "scale": 0.3}]
    victim = summed(scenario, defenses=shaped)
    own = [
        spread(Victim(victim.world, WireEntry(1, client, victim.entry.received_weights, update), truth))
        for client in range(2)
        for update, truth in [local_training(victim.world, victim.entry.received_weights, 1, client)]
    ]
    columns = spread(victim)
    assert len(columns) == sum(map(len, own))
    torch.testing.assert_close(columns.T @ columns, sum(one.T @ one for one in own) / 4, rtol=1e-6, atol=1e-12)


def test_a_covariance_that_is_too_large_is_not_computed(scenario: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differentiable_update, "_MOST", 1000)
    victim = single(scenario, defenses=[{"name": "shaped-noise"}])
    assert "too much to compute with" in (ceiling_of(victim).ceiling.undefined or "")


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"federation": STEPS}, "not defined for shaped-noise at each of several steps"),
        ({"defenses": [{"name": "shaped-noise"}, {"name": "pruning"}]}, "behind a defense that changes gradients"),
        ({"defenses": [{"name": "shaped-noise"}, {"name": "local-dp"}]}, "a defense that changes noise"),
    ],
)
def test_a_covariance_that_something_else_would_change_is_not_defined(
    scenario: Build, tables: dict[str, Any], reason: str
) -> None:
    victim = single(scenario, **{"defenses": [{"name": "shaped-noise"}], **tables})
    assert reason in (ceiling_of(victim).ceiling.undefined or "")


@pytest.mark.parametrize(
    ("momentum", "federation"),
    [
        (0.9, STEPS),
        pytest.param(
            0.5, {"clients": 500, "algorithm": "fedavg", "local_epochs": 2, "batch_size": 2}, marks=pytest.mark.slow
        ),
    ],
)
def test_several_steps_have_the_jacobian_of_the_whole_training(
    scenario: Build, momentum: float, federation: dict[str, Any]
) -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.5, "momentum": momentum}
    own = single(scenario, federation={**federation, "optimizer": optimizer})
    places = example_indices(own.truth.original_batches)
    assert len(places) > 1
    trained = change(own.world, own.truth, places, 0.5, momentum)
    close(information(own), trained, own)


def close(found: Tensor, sent: Callable[[Tensor], Tensor], own: Victim) -> None:
    """Assert that A is that of the function's Jacobian, up to the rounding of double precision."""
    whole = jacobian(sent, own.examples.inputs.double()).flatten(1)
    expected = whole.T @ (whole / noise(own).square()[:, None])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


def test_a_sum_has_the_jacobian_of_all_clients_side_by_side(scenario: Build) -> None:
    own = summed(scenario, federation={**STEPS, "optimizer": {"name": "sgd", "learning_rate": 0.5}})
    world = own.world
    of_steps = example_indices(own.truth.original_batches)
    truths = [local_training(world, own.entry.received_weights, 1, client)[1] for client in (0, 1)]
    places = [[whole.split(1)[client] for whole in of_steps] for client in (0, 1)]
    parts = [change(world, truth, own_places, 0.5, 0.0) for truth, own_places in zip(truths, places, strict=True)]
    close(information(own), lambda x: (parts[0](x) + parts[1](x)) / 2, own)


@pytest.mark.parametrize("applies", ["per_step", "per_update"])
def test_one_step_has_the_ceiling_of_its_gradient(scenario: Build, applies: str) -> None:
    tables = {"defenses": [{**NOISE, "applies": applies}]}
    gradient = ceiling_of(single(scenario, **tables)).ceiling
    delta = ceiling_of(single(scenario, federation={**STEPS, "local_steps": 1}, **tables)).ceiling
    assert gradient.psnr is not None
    assert delta.psnr == pytest.approx(gradient.psnr, abs=1e-6)  # rounding is 1e-5 of the noise
    assert delta.rank == gradient.rank


def test_a_sum_of_gradients_has_the_ceiling_of_their_union(scenario: Build) -> None:
    own = summed(scenario, defenses=[{**NOISE, "relative": False}])
    assert len(own.truth.batches) == 1
    union = Victim(own.world, WireEntry(1, 0, own.entry.received_weights, own.truth.raw), own.truth)
    expected = 2 * information(union)  # the mean of two clients has half the variance of one's noise
    torch.testing.assert_close(information(own), expected, rtol=1e-6, atol=1e-9 * float(expected.max()))


def test_who_knows_the_other_clients_knows_more_and_a_larger_sum_hides_more(scenario: Build) -> None:
    found = [ceiling_of(summed(scenario, clients, defenses=[NOISE])).ceiling for clients in (2, 3)]
    for own in found:
        assert own.psnr <= own.psnr_other_clients_known
    assert found[1].psnr < found[0].psnr
    alone = ceiling_of(single(scenario)).ceiling
    assert alone.psnr_other_clients_known is None


def test_the_stated_rounding_of_a_change_is_what_single_precision_loses(scenario: Build) -> None:
    rate = 1e-3  # so small that the rounding of the weights is all that counts
    own = single(scenario, federation={**STEPS, "optimizer": {"name": "sgd", "learning_rate": rate}})
    trained = change(own.world, own.truth, example_indices(own.truth.original_batches), rate, 0.0)
    exact = trained(own.examples.inputs.double()).detach()
    measured = torch.cat([t.flatten() for t in own.entry.update.tensors.values()]).double() - exact
    share = float((measured / noise(own)).square().mean().sqrt())
    assert 0.1 < share < 1.0  # 6e-8 is the largest relative error of a rounding


def test_noise_of_every_step_counts_at_least_as_much_as_that_of_the_last(scenario: Build) -> None:
    fixed = {**NOISE, "scale": 0.05, "relative": False, "applies": "per_step"}
    own = single(scenario, federation={**STEPS, "optimizer": {"name": "sgd", "learning_rate": 0.5}}, defenses=[fixed])
    torch.testing.assert_close(noise(own), torch.full_like(noise(own), 0.5 * 0.05), rtol=1e-6, atol=0.0)


def test_rounding_behind_secure_aggregation_is_noise_of_every_client(scenario: Build) -> None:
    bare = summed(scenario)
    secure = summed(scenario, secure_aggregation={"mode": "ideal"})
    width = secure.world.scenario.secure_aggregation.step  # pyright: ignore[reportOptionalMemberAccess]
    added = noise(secure).square() - noise(bare).square()
    torch.testing.assert_close(added, torch.full_like(added, width**2 / 6 / 2), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"defenses": [{"name": "random-pruning"}]}, "not defined for random-pruning at each of several steps"),
        ({"federation": {**STEPS, "optimizer": {"name": "adam"}}, "model": DYING}, "no derivative at the truth"),
    ],
)
def test_steps_without_a_derivative_are_told(scenario: Build, tables: dict[str, Any], reason: str) -> None:
    found = ceiling_of(single(scenario, **{"federation": STEPS, **tables})).ceiling
    assert reason in found.undefined
    assert found.psnr is None
