"""The loss over draws: its mean, at levels of training or at one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.membership.drawn_loss import DrawnLoss, DrawnLossConfig
from fedsim.core.types import Batch, Config
from fedsim.tasks.classification import Classification
from fedsim.tasks.denoising import Denoising, DenoisingConfig

BATCH = Batch(torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(4).long())


class Constant(nn.Module):
    """Answers with half of what it sees, and notes the levels."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.levels: list[Tensor] = []

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        self.levels.append(noise)
        return self.factor * x


def seen(model: nn.Module, task: Any) -> Any:
    return SimpleNamespace(candidates=BATCH, model=model, weights=((1, model.state_dict()),), task=task)


def scores(model: nn.Module, **settings: Any) -> Tensor:
    own = DrawnLoss(DrawnLossConfig(**settings))
    return own.score(seen(model, Denoising(DenoisingConfig())), torch.Generator().manual_seed(1))


@pytest.mark.paper_step("drawn-loss", "loss under drawn noise levels as score")
def test_at_one_level_it_is_the_expectation_known_by_hand() -> None:
    found = scores(Constant(), draws=1500, level=2.0)
    # (0.5 (y + 2 e) - y)^2 has the expectation y^2 / 4 + 1, weighted by (1 + 4) / 4.
    expected = -(BATCH.inputs.square().mean((1, 2, 3)) / 4 + 1) * 5 / 4
    # Each is a mean of 6,000 squares whose deviation is below 2: three standard errors are below 0.08.
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.08)


def test_levels_are_those_of_training_unless_one_is_asked_for() -> None:
    model = Constant()
    scores(model, draws=3)
    assert len({float(level) for own in model.levels for level in own}) == 12
    model = Constant()
    scores(model, draws=2, level=0.3)
    assert {round(float(level), 6) for own in model.levels for level in own} == {0.3}


def test_without_draws_it_is_the_plain_loss_of_one_pass() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    found = DrawnLoss(DrawnLossConfig(draws=5)).score(seen(model, Classification(Config())), torch.Generator())
    plain = -nn.functional.cross_entropy(model(BATCH.inputs), BATCH.labels, reduction="none")
    assert found.tolist() == pytest.approx(plain.tolist(), rel=1e-6)  # single precision
