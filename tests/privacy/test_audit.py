"""One-run audits: the bound against simulation, and DP-SGD as it is and as it is often written wrongly."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.hooks import HookContext, LocalStep
from fedsim.core.types import Batch, Tensors
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.audit import coins, epsilon_at_least, p_value
from fedsim.privacy.one_run import count_right

CANARIES, GUESSES, DELTA = 600, 400, 1e-5
Step = Callable[[Batch, LocalStep, Callable[[], Tensor]], Tensors]


def dp_sgd(**settings: Any) -> Step:
    method = registry.get("defense", "dp-sgd")
    defense = method.make(method.config.model_validate(settings))

    def step(_batch: Batch, local: LocalStep, losses: Callable[[], Tensor]) -> Tensors:
        here = HookContext(1, 0, 0, torch.Generator().manual_seed(5), local=local)
        return defense.on_examples(losses, here)[1]

    return step


def clips_the_batch(sigma: float) -> Step:
    """The mean gradient is clipped instead of each example's; the noise is right for a clipping norm of 1."""

    def step(batch: Batch, local: LocalStep, losses: Callable[[], Tensor]) -> Tensors:
        (gradient,) = torch.autograd.grad(losses().mean(), list(local.parameters.values()))
        clipped = gradient * min(1.0, 1.0 / float(gradient.norm()))
        noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(5))
        return {"weight": clipped + sigma * noise / len(batch)}

    return step


def observed(step: Step, scale: float = 20.0) -> tuple[Tensor, Tensor]:
    """Train one step on a fair half of the canaries, each of which has an input of its own; return who and a score."""
    included = coins(CANARIES, torch.Generator().manual_seed(8))
    model = nn.Linear(CANARIES, 2, bias=False)
    nn.init.zeros_(model.weight)
    inputs = scale * torch.eye(CANARIES)[included]
    batch = Batch(inputs, torch.zeros(len(inputs), dtype=torch.long))
    local = LocalStep(model, dict(model.named_parameters()), batch, CANARIES / 2)
    gradient = step(batch, local, lambda: F.cross_entropy(model(batch.inputs), batch.labels, reduction="none"))
    weight = gradient["weight"]
    return included, weight[1] - weight[0]  # along the gradient of that canary


def shown(step: Step, guesses: int) -> float:
    """Return the epsilon that the right guesses about the canaries of a step require."""
    included, scores = observed(step)
    right = int(count_right(included.numpy(), scores.detach().numpy(), guesses))
    return epsilon_at_least(CANARIES, guesses, right, DELTA, 0.95)


def test_the_private_one_is_not_contradicted_and_the_audit_is_not_empty() -> None:
    assert 0.5 < shown(dp_sgd(noise_multiplier=0.6), 100) < epsilon([Spent(0.6, 1.0, 1)], DELTA).value


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_missing_noise_is_caught(sigma) -> None:
    claimed = epsilon([Spent(sigma, 1.0, 1)], DELTA).value
    without_mistake = epsilon_at_least(CANARIES, GUESSES, GUESSES, DELTA, 0.95)
    assert shown(dp_sgd(noise_multiplier=sigma), GUESSES) <= claimed
    assert claimed < shown(dp_sgd(noise_multiplier=0.0), GUESSES) == without_mistake


def test_clipping_the_batch_is_caught() -> None:
    claimed = epsilon([Spent(2.0, 1.0, 1)], DELTA).value
    assert shown(clips_the_batch(2.0), GUESSES) > claimed


def test_too_little_noise_is_caught() -> None:
    claimed = epsilon([Spent(2.0, 1.0, 1)], DELTA).value
    assert shown(dp_sgd(noise_multiplier=0.2), GUESSES) > claimed


@pytest.mark.slow
def test_randomised_response_is_bounded_with_the_stated_confidence() -> None:
    """It is exactly epsilon-DP and reaches the binomial bound: the audit may exceed epsilon in 5 % of the runs."""
    true, runs, generator = 1.0, 200, torch.Generator().manual_seed(6)
    rate = float(torch.tensor(true).sigmoid())
    bounds = []
    for _ in range(runs):
        correct = int((torch.rand(200, generator=generator) < rate).sum())
        bounds.append(epsilon_at_least(200, 200, correct, 0.0, 0.95))
    exceeding = sum(bound > true for bound in bounds) / runs
    assert exceeding <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert 0.5 < sum(bounds) / runs < true


def test_delta_weakens_the_bound_and_guesses_at_random_give_none() -> None:
    assert p_value(100, 100, 70, 0.5, 0.0) < p_value(100, 100, 70, 0.5, 1e-3) < p_value(100, 100, 70, 0.5, 1e-2)
    assert p_value(10, 10, 0, 0.0, 1e-5) == 1.0
    assert epsilon_at_least(100, 100, 50, 1e-5, 0.95) == 0.0
    assert epsilon_at_least(1000, 1000, 1000, 0.0, 0.95) == pytest.approx(5.808, abs=0.01)  # 0.05^(1/1000) is the rate


def test_the_p_value_is_that_of_the_paper_by_hand() -> None:
    """Theorem 5.2 with e^epsilon = 3, so that a guess is right with probability 3/4: four of four right, m = 10.

    The tail is (3/4)^4 = 81/256; the steepest mean of probabilities below is that of three right, 27/64, alone.
    """
    assert p_value(10, 4, 4, math.log(3), 1e-3) == pytest.approx(81 / 256 + 2 * 10 * 1e-3 * 27 / 64, rel=1e-12)
    assert p_value(10, 4, 4, math.log(3), 0.0) == pytest.approx(81 / 256, rel=1e-12)
