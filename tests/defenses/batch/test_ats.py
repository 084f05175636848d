"""ATS: both scores against loops, and the search."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from defenses.batch._transforms import LIBRARY, TransformPolicy
from defenses.batch.ats import Ats, AtsConfig, accuracy_score, privacy_score
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import HookContext
from fedsim.core.types import Batch
from fedsim.core.types.effects import Transformed
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario.world import build
from tests.defenses.batch.pictures import images
from tests.federating import scenario

Build = Callable[..., Scenario]


def small(seed: int = 1) -> nn.Module:
    with seeding.isolate_randomness(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))


@pytest.mark.paper_step("ats", "privacy score: area under the cosines")
def test_the_privacy_score_is_the_area_under_the_cosines() -> None:
    model, x, y = small(), images(2, 1, 8, 8), torch.tensor([1, 4])

    def gradient(inputs: torch.Tensor, label: torch.Tensor) -> list[np.ndarray]:
        loss = nn.functional.cross_entropy(model(inputs), label)
        return [g.numpy().ravel() for g in torch.autograd.grad(loss, list(model.parameters()))]

    noise_source = torch.Generator().manual_seed(5)
    areas: list[float] = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        noise = torch.randn(image.shape, generator=noise_source)
        wanted = gradient(image, label)
        curve: list[float] = []
        for i in range(21):
            ours = gradient((1 - i / 20) * noise + i / 20 * image, label)
            cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(ours, wanted, strict=True)]
            curve.append(float(np.mean(cosines)))
        assert curve[-1] == pytest.approx(1.0, abs=1e-5)
        areas.append(float(np.trapezoid(curve, dx=1 / 20)))
    found = privacy_score(model, x, y, torch.Generator().manual_seed(5))
    assert found == pytest.approx(float(np.mean(areas)), abs=1e-4)


@pytest.mark.paper_step("ats", "accuracy score: eigenvalues of the Jacobian's correlations")
def test_the_accuracy_score_is_best_for_uncorrelated_rows() -> None:
    model, x = small(), images(4, 1, 8, 8)
    rows: list[np.ndarray] = []
    for image in x.split(1):
        leaf = image.clone().requires_grad_()
        rows.append(torch.autograd.grad(model(leaf).sum(), leaf)[0].numpy().ravel())
    values = np.linalg.eigvalsh(np.corrcoef(np.stack(rows).astype(np.float64)))
    expected = -float(np.sum(np.log(values + 1e-5) + 1 / (values + 1e-5)))
    assert accuracy_score(model, x) == pytest.approx(expected, rel=1e-3)
    assert accuracy_score(model, x) <= -4 + 1e-3
    assert accuracy_score(model, x[:1].repeat(4, 1, 1, 1)) < accuracy_score(model, x)


@pytest.mark.paper_step("ats", "search over random policies with a half-trained model")
def test_the_search_finds_policies_once_and_leaves_the_model_alone() -> None:
    config = AtsConfig(policies=(), candidates=6, kept_policies=2, images=3, warm_up=2)
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    defense, other = Ats(config), Ats(config)
    assert defense.prepare(model, torch.Generator().manual_seed(8)) is model
    other.prepare(small(), torch.Generator().manual_seed(8))
    (stated,) = defense.adaptive_view().effects
    assert isinstance(stated, Transformed)
    policies = stated.functions
    assert len(policies) == 2
    assert other.adaptive_view().effects == (stated,)
    assert all(isinstance(policy, TransformPolicy) and 1 <= len(policy.steps) <= 3 for policy in policies)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(NotApplicable, match="do not fit the model"):
        Ats(config).prepare(nn.Linear(7, 3), torch.Generator().manual_seed(8))


@pytest.mark.paper_step("ats", "a random policy per batch")
def test_one_policy_a_batch_is_drawn_from_those_given() -> None:
    defense = Ats(AtsConfig(policies=((0,), (9, 31))))
    batch = Batch(images(), torch.zeros(3, dtype=torch.long))
    results = [
        defense.on_batch(batch, HookContext(1, 0, 0, torch.Generator().manual_seed(seed))).inputs for seed in range(40)
    ]
    kinds = [torch.equal(result, LIBRARY[0](images())) for result in results]
    assert all(
        kind or torch.equal(r, LIBRARY[31](LIBRARY[9](images()))) for kind, r in zip(kinds, results, strict=True)
    )
    assert sum(kinds) == pytest.approx(20, abs=3 * math.sqrt(10))
    world = build(scenario(defenses=[{"name": "ats"}]))
    _, truth = local_training(world, world.models.first_weights, 1, 0)
    assert not torch.equal(truth.batches[0].inputs, truth.original_batches[0].inputs)


@pytest.mark.parametrize("policies", [((50,),), ((1, 2, 3, 4),), ((),)])
def test_policies_outside_the_library_are_refused(policies: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValidationError):
        AtsConfig(policies=policies)
