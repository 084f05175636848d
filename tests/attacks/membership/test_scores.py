"""The attacks' own mathematics, against brute force and hand computations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import nn

from fedsim.core import seeding
from fedsim.core.hooks import MembershipAttack
from fedsim.core.types import Batch, Config, MembershipObservation, Shadow, ShadowPlan, Tensors, Update, WatchedUpdate
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


def test_losses_are_those_of_the_last_weights_alone_fallen_or_calibrated(attack_of: Make) -> None:
    calibrated = attack_of("calibrated", shadows=4)
    seen = observed(calibrated.plan())
    last, both = seen.weights[-1][1], seen.candidates
    simple = [-loss(last, both, i) for i in range(6)]
    assert scored(attack_of("loss-threshold"), seen) == pytest.approx(simple, abs=1e-5)
    earlier = [(loss(weights(3), both, i) + loss(weights(4), both, i)) / 2 for i in range(6)]
    fallen = [a + b for a, b in zip(earlier, simple, strict=True)]
    assert scored(attack_of("loss-trajectory"), seen) == pytest.approx(fallen, abs=1e-5)
    hard = [sum(loss(weights(10 + k), both, i) for k in range(4)) / 4 for i in range(6)]
    assert scored(calibrated, seen) == pytest.approx([a + b for a, b in zip(hard, simple, strict=True)], abs=1e-5)


@pytest.mark.parametrize("variance", ["fixed", "per-example"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_lira_is_the_likelihood_ratio_of_two_gaussians(attack_of: Make, mode: str, variance: str) -> None:
    attack = attack_of("lira", shadows=6, mode=mode, variance=variance)
    plan = attack.plan()
    assert plan is not None
    seen = observed(plan)
    shadows = seen.shadows[plan]

    def logit(own: Tensors, index: int) -> float:
        p = probability(own, seen.candidates, index)
        return float(torch.tensor(p / (1 - p), dtype=torch.float64).log())

    def gathered(index: int, is_inside: bool) -> torch.Tensor:
        chosen = [logit(own.weights, index) for own in shadows if bool(own.candidates[index]) == is_inside]
        return torch.tensor(chosen, dtype=torch.float64)

    def deviation(index: int, is_inside: bool) -> float:
        if variance == "per-example":
            return float(gathered(index, is_inside).std())
        each = [gathered(i, is_inside) for i in range(6)]
        squares = sum(float(((own - own.mean()) ** 2).sum()) for own in each)
        return (squares / sum(len(own) - 1 for own in each)) ** 0.5

    expected = []
    for i in range(6):
        phi = logit(seen.weights[-1][1], i)
        outside = norm(float(gathered(i, False).mean()), deviation(i, False))
        if mode == "offline":
            expected.append((phi - outside.mean()) / outside.std())
            continue
        inside = norm(float(gathered(i, True).mean()), deviation(i, True))
        expected.append(inside.logpdf(phi) - outside.logpdf(phi))
    assert scored(attack, seen) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_confidence_that_rounds_to_one_still_has_a_logit(attack_of: Make) -> None:
    attack = attack_of("lira", shadows=4, mode="offline")
    seen = observed(attack.plan())
    sure = {name: tensor * 1e4 for name, tensor in seen.weights[-1][1].items()}
    assert all(abs(score) < float("inf") for score in scored(attack, replace(seen, weights=((1, sure),))))


@pytest.mark.parametrize(("a", "gamma"), [(0.3, 2.0), (1.0, 1.0), (0.0, 1.5)])
def test_rmia_compares_every_pair(attack_of: Make, a: float, gamma: float) -> None:
    attack = attack_of("rmia", shadows=4, a=a, gamma=gamma)
    plan = attack.plan()
    assert plan is not None
    seen = observed(plan, candidates=20, reference=30)

    def ratio(examples: Batch, index: int, outside: list[Shadow]) -> float:
        without = sum(probability(own.weights, examples, index) for own in outside) / len(outside)
        inside = a * without + 1 - a
        return probability(seen.weights[-1][1], examples, index) / ((inside + without) / 2)

    every = list(seen.shadows[plan])
    ratios = [ratio(seen.reference, j, [own for own in every if not own.reference[j]]) for j in range(30)]
    expected = [sum(ratio(seen.candidates, i, every) / other >= gamma for other in ratios) / 30 for i in range(20)]
    assert scored(attack, seen) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 3


@pytest.mark.parametrize("measure", ["cosine", "inner-product"])
def test_alignment_is_that_of_the_closed_form_gradient(attack_of: Make, measure: str) -> None:
    """Of a linear layer the gradient of one example is (softmax - label) times its inputs."""
    seen = observed()
    sent = [{"weight": torch.randn(CLASSES, FEATURES)} for _ in range(2)]
    updates = tuple(
        WatchedUpdate(r, weights(20 + r), Update("delta", own, {}, 0, 0.0)) for r, own in enumerate(sent, 1)
    )
    expected = []
    for i in range(6):
        agreements = []
        for watched in updates:
            own, x = watched.received, seen.candidates.inputs[i].double()
            logits = own["weight"].double() @ x + own["bias"].double()
            error = logits.softmax(0) - F.one_hot(seen.candidates.labels[i], CLASSES)
            gradient, update = torch.outer(error, x).flatten(), watched.update.tensors["weight"].double().flatten()
            norms = gradient.norm() * update.norm() if measure == "cosine" else torch.tensor(1.0)
            agreements.append(float(gradient @ update / norms))
        expected.append(sum(agreements) / 2)
    attack = attack_of("update-alignment", measure=measure)
    assert scored(attack, replace(seen, updates=updates)) == pytest.approx(expected, abs=1e-5)


def test_an_update_of_which_nothing_is_seen_has_no_direction(attack_of: Make) -> None:
    hidden = (WatchedUpdate(1, weights(1), Update("delta", {}, {}, 0, 0.0)),)
    reason = attack_of("update-alignment").not_applicable(replace(observed(), updates=hidden))
    assert reason is not None
