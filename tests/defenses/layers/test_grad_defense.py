"""GradDefense: sensitivities, slices of equal sensitivity, and noise on some of them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from defenses.core.slices import sensitivities, slices_of
from tests.defenses.stepping import gradient, here, local_step, make, rules


@pytest.mark.paper_step("grad-defense", "sensitivity of each tensor")
def test_the_sensitivities_are_those_of_a_loop_over_examples() -> None:
    local = local_step()
    expected = dict.fromkeys(local.parameters, 0.0)
    for example, label in zip(local.batch.inputs, local.batch.labels, strict=True):
        for name, parameter in local.parameters.items():

            def total(
                x: torch.Tensor, parameter: torch.Tensor = parameter, label: torch.Tensor = label
            ) -> torch.Tensor:
                loss = F.cross_entropy(local.model(x[None]), label[None])
                return torch.autograd.grad(loss, parameter, create_graph=True)[0].sum()

            slope = torch.autograd.functional.jacobian(total, example)
            expected[name] += float(slope.norm()) / len(local.batch)
    assert sensitivities(local) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.paper_step("grad-defense", "slices of equal sensitivity")
@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(1, 50)), min_size=1, max_size=6), st.integers(1, 12))
def test_slices_are_contiguous_and_equally_sensitive(tensors: list[tuple[float, int]], slices: int) -> None:
    sensitivity = {str(i): own for i, (own, _) in enumerate(tensors)}
    sizes = {str(i): size for i, (_, size) in enumerate(tensors)}
    found = slices_of(sensitivity, sizes, slices)
    whole = torch.cat([found[name] for name in sizes])
    assert torch.equal(whole, whole.sort().values)
    assert int(whole.min()) >= 0
    assert int(whole.max()) < slices
    weights = sensitivity if any(sensitivity.values()) else {n: float(s) for n, s in sizes.items()}
    entries = torch.cat([torch.full((sizes[n],), weights[n] / sizes[n], dtype=torch.float64) for n in sizes])
    largest = float(entries.max())
    for number in range(slices):
        own = float(entries[whole == number].sum())
        assert own == pytest.approx(float(entries.sum()) / slices, abs=largest * (1 + 1e-6))


@pytest.mark.paper_step("grad-defense", "noise on random slices")
def test_the_chosen_slices_and_only_they_get_noise_of_the_stated_scale() -> None:
    local, plain = local_step(), gradient()
    slices = slices_of(sensitivities(local), {n: g.numel() for n, g in plain.items()}, 4)
    noises = []
    chosen: set[tuple[int, ...]] = set()
    for seed in range(150):
        after = make("grad-defense", slices=4, noisy_slices=2, scale=0.1).on_gradient(plain, here(seed, 0, local))
        noise = torch.cat([(after[name] - plain[name]).flatten() for name in plain])
        hit = torch.cat([slices[name] for name in plain])
        touched = tuple(sorted({int(number) for number in hit[noise != 0]}))
        assert len(touched) <= 2
        assert bool((noise[torch.isin(hit, torch.tensor(touched))] != 0).all())
        chosen.add(touched)
        noises.append(noise[noise != 0])
    assert float(torch.cat(noises).std()) == pytest.approx(0.1, rel=0.03)
    assert len(chosen) == 6


def test_an_empty_batch_gets_noise_too() -> None:
    local = local_step()
    empty = replace(local, batch=replace(local.batch, inputs=local.batch.inputs[:0], labels=local.batch.labels[:0]))
    zeros = {name: torch.zeros_like(t) for name, t in gradient().items()}
    after = make("grad-defense").on_gradient(zeros, here(local=empty))
    assert any(tensor.any() for tensor in after.values())


def test_more_slices_than_there_are_cannot_be_disturbed() -> None:
    model = local_step().model
    assert make("grad-defense", slices=3, noisy_slices=3).refuses(rules(), model) is None
    assert "the number of slices is 3" in str(make("grad-defense", slices=3, noisy_slices=4).refuses(rules(), model))
