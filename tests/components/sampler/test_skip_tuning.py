"""Skip-Tuning: the ramp from the bottom up, the identity where rho is 1, and its window of levels."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.components.core.skips import skips_of
from fedsim.components.sampler._solver import levels
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationInputs
from fedsim.generation import sample
from fedsim.models.edm_unet import EdmUnetConfig, edm_unet
from tests.components.generating import Denoiser, make, sources
from tests.models.sizes import spec


def unet() -> torch.nn.Module:
    with seeding.isolate_randomness(0):
        return edm_unet(EdmUnetConfig(width=8, blocks=2), spec(1, 8, 8)).eval()


def drawn(name: str, model: torch.nn.Module, shape: tuple[int, ...] = (1, 8, 8), **settings: Any) -> Tensor:
    samples = sample(make(name, steps=3, **settings), model, GenerationInputs(((),) * 2), shape, sources(2))
    return torch.stack([own.x for own in samples if own.x is not None])


@pytest.mark.paper_step("skip-tuning", "a factor of 1 equals the plain solver")
@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_a_rho_of_one_is_the_solver_bit_by_bit(solver: str) -> None:
    model = unet()
    plain = drawn(solver, model)
    assert torch.equal(drawn("skip-tuning", model, solver=solver, bottom=1.0, top=1.0), plain)
    assert not torch.equal(drawn("skip-tuning", model, solver=solver, bottom=0.5), plain)
    assert torch.equal(drawn("skip-tuning", model, solver=solver, bottom=0.5, below=0.0), plain), "an empty window"


@pytest.mark.paper_step("skip-tuning", "ramp of factors on the skips")
def test_the_ramp_rises_in_the_order_in_which_the_decoder_takes_skips_up() -> None:
    model, tuned = unet(), make("skip-tuning", bottom=0.5, top=1.0)
    count = len(skips_of(model))
    assert count == 6
    assert [float(tuned.factor(i, count, torch.ones(1))) for i in range(6)] == pytest.approx(
        [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    )
    assert float(tuned.factor(0, 1, torch.ones(1))) == 0.5, "a single skip is the bottom one"
    seen: dict[int, list[Tensor]] = {number: [] for number in range(6)}
    hooks = [
        skip.register_forward_hook(lambda _own, given, _out, number=number: seen[number].append(given[1]))
        for number, skip in enumerate(skips_of(model))
    ]
    x, level = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 2.0])
    model(x, level)
    state = make("heun").start(model, GenerationInputs(((),) * 2), _context())
    tuned.denoise(model, state)(x, level)
    for hook in hooks:
        hook.remove()
    for number, (plain, weaker) in seen.items():
        # The stem's and encoder's features do not depend on skips, so the ratio is rho itself.
        torch.testing.assert_close(weaker, (0.5 + 0.1 * number) * plain)


def test_the_default_is_the_papers_constant_for_every_skip_and_level() -> None:
    tuned = make("skip-tuning")
    for skip in range(3):
        assert tuned.factor(skip, 3, torch.tensor([0.002, 80.0])).tolist() == pytest.approx([0.78, 0.78])


@pytest.mark.paper_step("skip-tuning", "window over noise levels")
def test_a_window_of_levels_is_the_identity_outside() -> None:
    tuned = make("skip-tuning", bottom=0.5, top=0.5, above=1.0, below=10.0)
    assert tuned.factor(0, 2, torch.tensor([0.9, 1.0, 9.9, 10.0])).tolist() == [1.0, 0.5, 0.5, 1.0]


@pytest.mark.paper_step("skip-tuning", "ramp over noise levels")
def test_a_fading_rho_falls_in_even_steps_of_the_solver() -> None:
    """Levels are even steps of their root, so rho of step j of N falls from its value to 1 in even steps too."""
    fading = make("skip-tuning", bottom=0.5, top=0.5, level_schedule="fading", steps=5)
    steps = levels(fading.config)[:5]
    expected = [0.5, 0.625, 0.75, 0.875, 1.0]
    assert fading.factor(0, 3, steps).tolist() == pytest.approx(expected, abs=1e-5)  # single precision
    assert fading.factor(0, 3, torch.tensor([0.0, 1e6])).tolist() == pytest.approx([1.0, 0.5])


def test_a_denoiser_without_skips_is_refused() -> None:
    model = Denoiser()
    model.join = torch.nn.Identity()  # type: ignore[assignment]
    model.forward = lambda x, noise: x / (1 + noise.view(-1, 1, 1, 1))  # type: ignore[method-assign]
    with pytest.raises(FedsimError, match=r"the model Denoiser has none .* Choose sampler 'euler', or a U-Net such as"):
        drawn("skip-tuning", model, (3, 4, 4), solver="euler")
    assert len(drawn("euler", model, (3, 4, 4))) == 2


def _context() -> Any:
    from fedsim.core.hooks import GenerationContext

    return GenerationContext(tuple(sources(2)), shape=(1, 8, 8))
