"""The benchmarks of image diffusion: equal numbers of evaluations, and ways of drawing that exist."""

from benchmarks.continuous_speculation import WAYS
from benchmarks.samplers import candidates, interval, settings_of, solvers_of
from fedsim.core import registry
from fedsim.core.hooks import Condition
from fedsim.generation import sample
from tests.components.generating import Denoiser, sources


def test_every_sampler_takes_the_evaluations_that_its_row_says() -> None:
    assert solvers_of(40) == ("euler",)
    for solver in solvers_of(9):
        for name, rho in ((solver, None), ("skip-tuning", (0.8, 1.0))):
            method = registry.get("component", name)
            sampler = method.make(method.config.model_validate(settings_of(solver, 9, rho)))
            (own,) = sample(sampler, Denoiser(), Condition(((),)), (3, 4, 4), sources(1))
            assert sum(own.trace.series()["evaluations"]) == 9
    assert len(set(candidates())) == len(candidates())


def test_the_interval_over_seeds_is_that_of_student() -> None:
    assert interval([1.0, 2.0, 3.0]) == "2.00 [-0.48, 4.48]"  # 4.303 / sqrt(3)


def test_every_way_of_drawing_patches_has_settings_of_the_sampler() -> None:
    method = registry.get("component", "continuous-speculative")
    assert all(method.config.model_validate(dict(own)) for _, own in WAYS.values())
