"""A linear model with made-up weights, and its probabilities written out."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import seeding
from fedsim.core.types import Batch, Config, Tensors
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation, Shadow, ShadowPlan
from fedsim.tasks.classification import Classification

Make = Callable[..., MembershipAttack[Any]]
FEATURES, CLASSES = 5, 3


def weights(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn((CLASSES, FEATURES), generator=generator),
        "bias": torch.randn(CLASSES, generator=generator),
    }


def batch(n: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn((n, FEATURES), generator=generator), torch.randint(CLASSES, (n,), generator=generator))


def observed(plan: ShadowPlan | None = None, candidates: int = 6, reference: int = 8) -> MembershipObservation:
    generator = torch.Generator().manual_seed(9)
    shadows: dict[ShadowPlan, tuple[Shadow, ...]] = {}
    if plan is not None:
        half = plan.count // 2
        inside = torch.stack([torch.randperm(plan.count, generator=generator) < half for _ in range(candidates)], 1)
        known = torch.stack([torch.randperm(plan.count, generator=generator) < half for _ in range(reference)], 1)
        shadows[plan] = tuple(
            Shadow(weights(10 + k), inside[k] & plan.with_candidates, known[k]) for k in range(plan.count)
        )
    return MembershipObservation(
        candidates=batch(candidates, 1),
        reference=batch(reference, 2),
        model=nn.Linear(FEATURES, CLASSES).eval(),
        loss=F.cross_entropy,
        weights=((1, weights(3)), (2, weights(4)), (5, weights(5))),
        updates=(),
        train_shadow=lambda _examples, _generator: weights(0),
        shadows=shadows,
        task=Classification(Config()),
    )


def scored(attack: MembershipAttack[Any], observation: MembershipObservation) -> list[float]:
    return attack(observation, seeding.generator(1, "score")).tolist()


def probability(own: Tensors, examples: Batch, index: int) -> float:
    logits = own["weight"].double() @ examples.inputs[index].double() + own["bias"].double()
    return float(logits.softmax(0)[examples.labels[index]])


def loss(own: Tensors, examples: Batch, index: int) -> float:
    return -float(torch.tensor(probability(own, examples, index)).log())
