"""Opacus' optimizers with noise from ChaCha20: the same clipping, the stated deviation, and other kinds."""

import copy
import warnings

import pytest
import torch
from opacus import PrivacyEngine
from opacus.optimizers import AdaClipDPOptimizer, DPOptimizer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_optimizer import is_secure, opacus_class, secure

SIZE, EXAMPLES = 400, 12


def private(multiplier=0.7, poisson=True, ghost=False, clipping="flat", clip=0.5, engine=None):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(SIZE, 5), nn.Tanh(), nn.Linear(5, 3))
    data = TensorDataset(torch.randn(EXAMPLES, SIZE), torch.arange(EXAMPLES) % 3)
    loss = nn.CrossEntropyLoss()
    made = (engine or PrivacyEngine()).make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        criterion=loss,
        data_loader=DataLoader(data, batch_size=4),
        noise_multiplier=multiplier,
        max_grad_norm=[clip] * 4 if clipping == "per_layer" else clip,
        poisson_sampling=poisson,
        clipping=clipping,
        grad_sample_mode="ghost" if ghost else "hooks",
    )
    model, optimizer, *rest = made
    return model, optimizer, rest[0] if ghost else loss, rest[-1]


def step(model, optimizer, loss, inputs, labels):
    optimizer.zero_grad()
    loss(model(inputs), labels).backward()
    optimizer.step()


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
def test_the_clipped_sum_is_that_of_opacus_and_the_noise_has_its_deviation(ghost, clipping):
    if ghost and clipping == "per_layer":
        pytest.skip("Opacus has no ghost clipping by layer")
    model, optimizer, loss, _ = private(ghost=ghost, clipping=clipping)
    assert secure(optimizer) is optimizer
    inputs, labels = torch.randn(4, SIZE), torch.tensor([0, 1, 2, 0])
    step(model, optimizer, loss, inputs, labels)
    noise = torch.cat([(4 * p.grad - p.summed_grad).flatten() for p in optimizer.params])
    deviation = 0.7 * float(optimizer.max_grad_norm)
    assert float(noise.std()) == pytest.approx(deviation, rel=0.08)
    assert abs(float(noise.mean())) < 5 * deviation / len(noise) ** 0.5
    assert optimizer.noise_multiplier == 0.7


@pytest.mark.parametrize("ghost", [False, True])
def test_poisson_sampling_with_empty_batches_trains_and_is_accounted(ghost):
    model, optimizer, loss, loader = private(ghost=ghost)
    secure(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    for inputs, labels in loader:
        step(model, optimizer, loss, inputs, labels)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_multiplier_survives_an_error_and_a_second_call_changes_nothing():
    _, optimizer, _, _ = private()
    assert secure(secure(optimizer)) is optimizer
    with pytest.raises(AttributeError):
        optimizer.add_noise()  # nothing was accumulated
    assert optimizer.noise_multiplier == 0.7


def test_other_optimizers_are_refused_with_the_expected_ones():
    _, optimizer, _, _ = private()
    assert not is_secure(optimizer)
    plain = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=1.0)
    adaptive = AdaClipDPOptimizer.__new__(AdaClipDPOptimizer)
    for other in (plain, adaptive):
        with pytest.raises(FedsimError, match="make_private") as caught:
            secure(other)
        assert "DPOptimizerFastGradientClipping" in str(caught.value)


def step_of_given_gradients(optimizer):
    optimizer.zero_grad()
    for parameter in optimizer.params:
        parameter.grad_sample, parameter.grad = torch.ones(4, *parameter.shape), torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(("ghost", "clipping"), [(False, "flat"), (True, "flat"), (False, "per_layer")])
def test_a_deep_copy_has_parameters_and_noise_of_its_own(ghost, clipping):
    engine = PrivacyEngine()
    model, optimizer, _, _ = private(ghost=ghost, clipping=clipping, engine=engine)
    made_model, made = copy.deepcopy((model, secure(optimizer)))
    assert type(made) is type(optimizer)
    assert (made.noise_multiplier, made.expected_batch_size) == (0.7, 4)
    assert [id(p) for p in made.params] == [id(p) for p in made_model.parameters()]
    before = [p.detach().clone() for p in optimizer.params]
    step_of_given_gradients(made)
    assert all(torch.equal(a, b) for a, b in zip(before, optimizer.params, strict=True))
    step_of_given_gradients(optimizer)
    assert not any(torch.equal(a, b) for a, b in zip(made.params, optimizer.params, strict=True))
    assert sum(steps for *_, steps in engine.accountant.history) == 2  # one accountant counts both


@pytest.mark.parametrize("is_after_a_step", [False, True])
def test_a_shallow_copy_has_the_same_parameters_and_gradients(is_after_a_step):
    model, optimizer, loss, _ = private()
    secure(optimizer)
    if is_after_a_step:
        step(model, optimizer, loss, torch.ones(4, SIZE), torch.zeros(4, dtype=torch.long))
    made = copy.copy(optimizer)
    assert is_secure(made)
    assert all(a is b for a, b in zip(made.params, optimizer.params, strict=True))
    assert [p.summed_grad is None for p in made.params] == [not is_after_a_step] * 4


def test_an_optimizer_is_secure_by_class_or_by_the_mode_of_opacus_and_not_by_name():
    _, optimizer, _, _ = private()
    assert opacus_class(secure(private()[1])) is opacus_class(optimizer) is DPOptimizer
    optimizer.__class__ = named = type("SecureDPOptimizer", (DPOptimizer,), {})
    assert not is_secure(optimizer)
    assert opacus_class(optimizer) is named
    optimizer.secure_mode = True
    assert is_secure(optimizer)


def test_a_seed_of_torch_repeats_nothing():
    drawn = []
    for _ in range(2):
        model, optimizer, loss, _ = private()
        secure(optimizer)
        torch.manual_seed(4)
        step(model, optimizer, loss, torch.ones(4, SIZE), torch.zeros(4, dtype=torch.long))
        drawn.append(model._module[0].weight.detach().clone())
    assert not torch.equal(*drawn)
