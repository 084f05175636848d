"""One gradient between both ends of local training, against plain matching and finite differences."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.core.matching.comparison import GeneralComparison
from attacks.core.matching.unknowns import Unknowns, Values
from attacks.local_steps._surrogate import Path, SurrogateComparison, bend_of, bends, make_path_unknown
from fedsim.core import seeding
from fedsim.core.types import Observation
from tests.attacks.core.matching.measures import cosine
from tests.attacks.local_steps.clients import client_of
from tests.attacks.solving import toy


@pytest.fixture
def observation() -> Observation:
    """Two steps whose change is the first gradient."""
    with seeding.isolate_randomness(1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.GELU(), nn.Dropout(0.25), nn.Linear(6, 4)).double()
    seen, _ = toy(model, (3, 2, 2), 2)
    return replace(seen, update=replace(seen.update, kind="delta"), local_steps=2, batch_sizes=(2, 2), examples=2)


def unknowns(observation: Observation) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn((1, 2, 3, 2, 2), generator=generator, dtype=torch.float64, requires_grad=True)
    masks = tuple(torch.rand((1, *s.shape), generator=generator).double().requires_grad_() for s in observation.sites)
    return inputs, masks, observation.labels[None]


def on_path(observation: Observation, place: Tensor, bends: Sequence[Tensor] = ()) -> Values:
    names = [bend_of(name) for name in observation.update.tensors]
    return {"place on the path": (place,), **{n: (b,) for n, b in zip(names, bends, strict=False)}}


def bends_of(observation: Observation) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    shapes = (tensor.shape for tensor in observation.update.tensors.values())
    return tuple(torch.randn((1, *s), generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)


def trained(observation: Observation) -> nn.Module:
    """The model with theta_0 - D."""
    model = copy.deepcopy(observation.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.sub_(observation.update.tensors[name])
    return model


@pytest.mark.parametrize("path", ["linear", "quadratic"])
def test_at_the_received_weights_it_is_plain_matching(observation: Observation, path: Path) -> None:
    inputs, masks, labels = unknowns(observation)
    bent = bends_of(observation) if path == "quadratic" else ()
    place = torch.zeros(1, dtype=torch.float64)
    ours = SurrogateComparison(client_of(observation), [observation], path)
    plain = GeneralComparison(client_of(observation), [observation])
    here = cosine(ours.gradients(inputs, masks, labels, [0], on_path(observation, place, bent)))
    assert here.item() == pytest.approx(cosine(plain.gradients(inputs, masks, labels, [0])).item(), rel=1e-6)


@pytest.mark.paper_step("sme", "gradient at a surrogate between both weights")
def test_the_place_moves_the_weights_towards_the_trained_ones(observation: Observation) -> None:
    inputs, masks, labels = unknowns(observation)
    ours = SurrogateComparison(client_of(observation), [observation], "linear")
    there = cosine(ours.gradients(inputs, masks, labels, [0], on_path(observation, torch.ones(1).double())))
    moved = replace(client_of(observation), model=trained(observation))
    plain = cosine(GeneralComparison(moved, [observation]).gradients(inputs, masks, labels, [0]))
    assert there.item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("path", ["linear", "quadratic"])
def test_gradients_of_every_unknown_agree_with_finite_differences(observation: Observation, path: Path) -> None:
    inputs, masks, labels = unknowns(observation)
    bent = bends_of(observation) if path == "quadratic" else ()
    place = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    ours = SurrogateComparison(client_of(observation), [observation], path)
    curve = bends(observation.update.tensors, 0.1, 1e-3) if path == "quadratic" else ()
    unknown = Unknowns((make_path_unknown(0.4, 1e-3), *curve))

    def objective(x: Tensor, place: Tensor, *variables: Tensor) -> Tensor:
        values = on_path(observation, place, variables[: len(bent)])
        return cosine(ours.gradients(x, variables[len(bent) :], labels, [0], values)) + unknown.prior(values)

    assert torch.autograd.gradcheck(objective, (inputs, place, *bent, *masks), atol=1e-7)
