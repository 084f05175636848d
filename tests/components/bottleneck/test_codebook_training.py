"""How codes learn: derivatives, losses of codes, the penalty, idle codes, a falling k, and first codes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.components.bottleneck._codebook import active_codes, find_fired_codes
from fedsim.components.bottleneck.codebook import Codebook, CodebookConfig, bypass_codebooks, codebooks, reading
from fedsim.core.errors import NotApplicable
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.components.bottleneck.codebooks import activations, layer, network, prepared

Build = Callable[..., Scenario]
MLP = {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.25}


def surrogate(model: nn.Module, x: Tensor) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """The model with each codebook replaced by a smooth function: the codes chosen at x, plus what the input moves."""
    with reading(model) as seen:
        model(x)
    at_point: dict[str, tuple[Tensor, Tensor]] = {}

    def run(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        hidden = inputs
        for index in range(5):
            if index in (0, 2, 4):
                name = f"{index}.layer" if f"{index}.layer.weight" in weights else str(index)
                hidden = F.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])
            else:
                hidden = F.gelu(hidden)
            if f"{index}.codebook.codes" in weights:
                prefix = f"{index}.codebook."
                normalised = (
                    F.layer_norm(hidden, hidden.shape[-1:]) * weights[prefix + "scale"] + weights[prefix + "shift"]
                )
                chosen = seen[str(index)][0][:, 0]
                combined = weights[prefix + "codes"][0][chosen].mean(1)
                start = at_point.setdefault(str(index), (normalised.detach(), combined.detach()))[0]
                hidden = combined + normalised - start
        return hidden

    return run


def test_second_derivatives_are_those_of_the_straight_through_surrogate() -> None:
    model, x = prepared(network(), at=("1", "2"), loss="base"), activations(4, 5).requires_grad_()
    labels, direction = torch.tensor([0, 1, 2, 0]), torch.Generator().manual_seed(3)
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    smooth = surrogate(model, x.detach())

    def matched(outputs: Tensor) -> tuple[list[Tensor], Tensor]:
        gradient = torch.autograd.grad(F.cross_entropy(outputs, labels), list(weights.values()), create_graph=True)
        probes = [torch.randn(g.shape, generator=direction.manual_seed(3), dtype=g.dtype) for g in gradient]
        total = torch.stack([(g * v).sum() for g, v in zip(gradient, probes, strict=True)]).sum()
        return [g.detach() for g in gradient], torch.autograd.grad(total, x)[0]

    first, second = matched(torch.func.functional_call(model, weights, (x,)))
    expected, expected_second = matched(smooth(weights, x))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(first, expected, strict=True))
    assert expected_second.abs().max() > 1e-3
    assert torch.allclose(second, expected_second, atol=1e-12)


@pytest.mark.parametrize("loss", ["aeloss", "vqvae", "fullaeloss"])
def test_the_code_losses_move_with_the_inputs(loss: str) -> None:
    """The gradient of the codes, differentiated by central differences of the gradient itself.

    The loss is linear in the output, so that no straight-through term is in the way.
    """
    codebook, a, g = layer(loss=loss), activations(3, 6), activations(3, 6, seed=2)
    v = activations(1, 50, 6, seed=3)

    def along(point: Tensor) -> Tensor:
        (to_codes,) = torch.autograd.grad((g * codebook(point)).sum(), codebook.codes, create_graph=True)
        return (to_codes * v).sum()

    leaf = a.clone().requires_grad_()
    (found,) = torch.autograd.grad(along(leaf), leaf)
    step = 1e-6
    for row, column in [(0, 0), (1, 3), (2, 5)]:
        shift = torch.zeros_like(a)
        shift[row, column] = step
        expected = float((along(a + shift) - along(a - shift)).detach()) / (2 * step)
        assert abs(expected) > 1e-6
        assert float(found[row, column]) == pytest.approx(expected, rel=1e-5)


def test_idle_codes_move_onto_activations_in_training_alone() -> None:
    model = prepared(nn.Sequential(nn.Identity()), at=("0",), width=6, revive_after=2, codes=50, active=1)
    codebook, a = codebooks(model)["0"], activations(8, 6)
    before = codebook.codes.detach().clone()
    model.eval()(a)
    assert not codebook.idle.any()
    model.train()(a)
    assert torch.equal(codebook.codes, before)
    fired = find_fired_codes(codebook.select_codes(codebook.normalise(a)), 1, 50)
    assert torch.equal(codebook.idle.bool(), ~fired)
    model(a)
    assert torch.equal(codebook.codes[fired], before[fired])
    normalised = codebook.normalise(a).detach().flatten(0, 1)
    revived = codebook.codes.detach()[~fired]
    assert float(torch.cdist(revived, normalised).min(1).values.max()) < 1e-3 * float(normalised.norm(dim=1).max())
    assert not codebook.idle.any()


def test_k_falls_along_a_line_in_training_alone_and_stays_at_its_last_value() -> None:
    assert [active_codes(step, 8, 2, 7) for step in range(9)] == [8, 7, 6, 5, 4, 3, 2, 2, 2]
    assert [active_codes(step, 5, 1, 3) for step in range(4)] == [5, 3, 1, 1]
    assert [active_codes(step, 3, 3, 2) for step in range(3)] == [3, 3, 3]
    model = prepared(nn.Sequential(nn.Identity()), at=("0",), width=6, first_active=5, active=2, decay_steps=4)
    codebook, a = codebooks(model)["0"], activations(8, 6)
    with reading(model) as seen:
        for _ in range(6):
            model.train()(a)
            model.eval()(a)
    assert [codes.shape[-1] for codes in seen["0"]] == [5, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert [codebook.active, float(codebook.steps)] == [2, 6.0]
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    torch.func.functional_call(model.train(), weights, (a,))
    assert float(codebook.steps) == 6.0  # an attacker's forward pass is no training step


def test_k_goes_on_falling_from_round_to_round(scenario: Build) -> None:
    component = {"name": "codebook", "at": ["2"], "codes": 12, "first_active": 6, "active": 1, "decay_steps": 6}
    federation = {"algorithm": "fedavg", "batch_size": 4, "local_steps": 2, "clients": 2}
    world = worlds.build(scenario(model=MLP, components=[component], federation=federation))
    world.check()
    weights, lengths = world.models.first_weights, []
    for round_ in (1, 2, 3):
        lengths.append(codebooks(world.models.load_weights(weights))["2"].active)
        update, _ = local_training(world, weights, round_, 0)
        changes = {**update.tensors, **update.buffers}
        weights = {name: tensor - changes[name] for name, tensor in weights.items()}
    assert lengths == [6, 4, 2]


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_the_penalty_adds_the_gradient_of_the_lengths_of_the_codes_that_fired(power: float) -> None:
    plain, a, g = layer(groups=2, width=8, codes=20), activations(4, 7, 8), activations(4, 7, 8, seed=2)
    codebook = layer(groups=2, width=8, codes=20, penalty=0.01, penalty_norm=power)
    codebook.readers.append(seen := [])
    assert torch.equal(codebook(a), plain(a))
    found, without = (
        torch.autograd.grad((g * own(a)).sum(), [own.codes, own.scale], create_graph=True) for own in (codebook, plain)
    )
    fired = find_fired_codes(seen[0], 2, 20)
    assert 0 < int(fired.sum()) < 40
    penalty = 0.01 * codebook.codes.abs().pow(power).sum(-1).pow(1 / power)[fired].sum()
    (expected,) = torch.autograd.grad(penalty, codebook.codes)
    assert torch.allclose(found[0] - without[0], expected, atol=1e-14)
    assert not found[0][~fired].any()
    assert torch.equal(found[1], without[1])
    direction = activations(2, 20, 4, seed=3)
    (second,) = torch.autograd.grad((direction * (found[0] - without[0])).sum(), codebook.codes)
    leaf = codebook.codes.detach().clone().requires_grad_()
    own = 0.01 * leaf.abs().pow(power).sum(-1).pow(1 / power)[fired].sum()
    (first,) = torch.autograd.grad(own, leaf, create_graph=True)
    (expected_second,) = torch.autograd.grad((direction * first).sum(), leaf)
    assert torch.allclose(second, expected_second, atol=1e-12)


def test_first_codes_are_centres_of_public_activations() -> None:
    settings = CodebookConfig(at=("1",), codes=3, active=1, initialisation="k-means")
    model = Codebook(settings).prepare(network().float(), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    public = torch.tensor([0, 1, 2]).repeat(20)[:, None] * 4.0 + 0.01 * torch.randn(60, 5, generator=generator)
    Codebook(settings).initialise(model, public, generator)
    codebook = codebooks(model)["1"]
    with bypass_codebooks(model):
        inputs = codebook.normalise(model[:2](public)).detach()[:, 0]  # type: ignore[index]
    means = torch.stack([inputs[start::3].mean(0) for start in range(3)])
    distances = torch.cdist(codebook.codes[0].detach(), means)
    # Lloyd's algorithm may merge two clusters, but its centres are always means of what is nearest to them.
    nearest = torch.cdist(inputs, codebook.codes[0].detach()).argmin(1)
    for code in nearest.unique().tolist():
        assert torch.allclose(codebook.codes[0, code], inputs[nearest == code].mean(0), atol=1e-5)
    assert distances.min() < 1e-4
    with pytest.raises(NotApplicable, match="needs public examples"):
        Codebook(settings).initialise(model, public[:0], generator)
