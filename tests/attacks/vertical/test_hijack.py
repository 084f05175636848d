"""A bottom that follows the attacker's gradients ends in the attacker's space."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.questions.vertical.observe import SplitRun, blank_view, features_view
from fedsim.questions.vertical.types import CutStep
from tests.attacks.vertical.column_seats import EVERYTHING, made
from tests.questions.vertical.splitting import split_federation

EPOCHS = 25


def steered() -> tuple[Any, Any, SplitRun]:
    federation = split_federation(
        classes=4, columns=8, width=8, activation="leaky-relu", watched=(EPOCHS,), learning_rate=0.003
    )
    attack = made("hijack", learning_rate=3e-3)
    attack.begin(blank_view(federation, "a", EVERYTHING), torch.Generator().manual_seed(1))

    def steer(step: CutStep, _labels: Tensor, number: int) -> dict[str, Tensor]:
        return {**step.down, "a": attack.steer(step.up["a"], torch.Generator().manual_seed(number))}

    return federation, attack, federation.run(cover=steer)


@pytest.mark.paper_step("hijack", "adversarial pull of the features to the attacker's space")
@pytest.mark.paper_step("hijack", "decoder of the features")
def test_columns_are_explained_better_than_by_the_mean() -> None:
    federation, attack, run = steered()
    view = features_view(federation, run, "a", EPOCHS, "embeddings", EVERYTHING, (200, 1))
    originals = run.parts["a"][view.rows]
    of_mean = (view.public.mean(0) - originals).square().sum()
    wrong = (attack(view, torch.Generator().manual_seed(2)) - originals).square().sum()
    assert float(wrong) < 0.9 * float(of_mean)
