"""Levels, guidance, and what a sampler says about a model that does not fit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.core.skips import Skip
from fedsim.components.sampler._solver import SolverConfig, apply_guidance, levels
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Generated
from fedsim.generation import sample
from tests.components.generating import Denoiser, make, sources

SAMPLERS = ("euler", "heun", "skip-tuning")


class Told(nn.Module):
    """The image of a class: its number in every pixel; 0 without one. Its skip adds nothing."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.join = Skip()

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        return 0 * self.join(x, x)[:, : x.shape[1]] + labels.clamp_min(0).view(-1, 1, 1, 1)


class Coarse(Denoiser):
    """Was trained at few levels."""

    levels = 4


def draw(name: str, model: nn.Module, given: dict[str, Tensor], rows: int = 2, **settings: Any) -> list[Generated]:
    return sample(make(name, **settings), model, GenerationInputs(((),) * rows, given), (3, 4, 4), sources(rows))


@pytest.mark.paper_step("euler", "noise levels")
@pytest.mark.paper_step("heun", "noise levels")
def test_levels_are_those_of_the_formula() -> None:
    found = levels(SolverConfig(steps=5, min_level=0.002, max_level=80, curve=7)).tolist()
    by_hand = [(80 ** (1 / 7) + j / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for j in range(5)]
    assert found == pytest.approx(by_hand, rel=1e-12)  # double precision
    assert levels(SolverConfig(steps=1)).tolist() == pytest.approx([160], rel=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_goes_beyond_the_class_and_costs_twice(name: str) -> None:
    given = {"class": torch.tensor([1, 2])}
    plain, pushed = draw(name, Told(), given), draw(name, Told(), given, guidance=0.5)
    for row in range(2):
        # The denoiser's answer does not depend on x, so the last step ends on it but for rounding at levels up to 160.
        torch.testing.assert_close(plain[row].x, torch.full((3, 4, 4), row + 1.0), rtol=0, atol=1e-4)
        torch.testing.assert_close(pushed[row].x, torch.full((3, 4, 4), 1.5 * (row + 1)), rtol=0, atol=1e-4)
        twice = [2 * own for own in plain[row].trace.series()["evaluations"]]
        assert list(pushed[row].trace.series()["evaluations"]) == twice


def test_guidance_by_hand() -> None:
    x, level = torch.zeros(2, 3, 4, 4), torch.ones(2)
    assert apply_guidance(Told(), x, level, torch.tensor([2, -1]), 2.0)[:, 0, 0, 0].tolist() == [6.0, 0.0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_that_predicts_no_noise_is_named(name: str) -> None:
    with pytest.raises(FedsimError, match="the model Linear predicts no noise.*such as 'edm-unet'"):
        draw(name, nn.Linear(4, 4), {})


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_than_levels_are_named(name: str) -> None:
    with pytest.raises(FedsimError, match="needs 5 steps, and model Coarse has 4 noise levels.*at most 4"):
        draw(name, Coarse(), {}, steps=5)
    assert draw(name, Coarse(), {}, steps=4)[0].ending == "finished"


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_without_labels_and_classes_that_are_none_are_named(name: str) -> None:
    with pytest.raises(FedsimError, match="no class is given. Give each row one"):
        draw(name, Told(), {}, guidance=1.0)
    with pytest.raises(FedsimError, match="model Denoiser has no classes. Set guidance to 0"):
        draw(name, Denoiser(), {"class": torch.tensor([0, 1])}, guidance=1.0)
    with pytest.raises(FedsimError, match="class 3 was requested, and the model knows classes 0 to 2"):
        draw(name, Told(), {"class": torch.tensor([0, 3])})


def test_levels_that_do_not_fall_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_level is 3.0 and max_level 2.0"):
        SolverConfig(min_level=3.0, max_level=2.0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_answers_that_are_no_numbers_end_their_row_alone(name: str) -> None:
    class Breaking(Told):
        def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
            return super().forward(x, noise, labels) / (labels != 1).view(-1, 1, 1, 1)

    first, second = draw(name, Breaking(), {"class": torch.tensor([1, 2])})
    assert first.ending == "failed"
    assert "are not finite" in first.reason
    assert second.ending == "finished"
