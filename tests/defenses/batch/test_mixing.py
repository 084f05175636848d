"""MixUp and InstaHide: what is mixed with what, probabilities as labels through a whole run, and what undoes it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor, nn

from defenses.batch.instahide import Instahide, InstahideConfig
from defenses.batch.mixup import Mixup, MixupConfig
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense, HookContext, LocalStep
from fedsim.core.types import Batch
from fedsim.metrics.image import psnr
from fedsim.scenario import Scenario
from fedsim.scenario.world import build
from tests.federating import recorded

Build = Callable[..., Scenario]
CLASSES = 5


def mixed(defense: Defense[Any], batch: Batch, seed: int = 0) -> Batch:
    model = nn.Sequential(nn.Flatten(), nn.Linear(batch.inputs[0].numel(), CLASSES))
    local = LocalStep(model, dict(model.named_parameters()), batch, len(batch))
    return defense.on_batch(batch, HookContext(1, 0, 0, torch.Generator().manual_seed(seed), local=local))


def distinct(examples: int) -> Batch:
    """Examples that are unit vectors, so that mixtures show their weights, with labels of their own."""
    return Batch(torch.eye(examples).view(examples, 1, 1, examples), torch.arange(examples) % CLASSES)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.floats(0.05, 20.0), st.integers(0, 10_000))
def test_mixup_mixes_pairs_with_one_weight(examples: int, alpha: float, seed: int) -> None:
    batch = distinct(examples)
    result = mixed(Mixup(MixupConfig(alpha=alpha)), batch, seed)
    weights = result.inputs.view(examples, examples)
    assert torch.allclose(weights.sum(0), torch.ones(examples), atol=1e-6)
    assert torch.allclose(weights.sum(1), torch.ones(examples), atol=1e-6)
    own = {round(float(w), 5) for w in weights.diagonal() if float(w) < 1.0}
    assert len(own) <= 1
    assert int((weights > 0).sum(1).max()) <= 2
    assert torch.allclose(result.labels, weights @ nn.functional.one_hot(batch.labels, CLASSES).float(), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_the_weight_of_mixup_has_a_beta_law(alpha: float) -> None:
    batch = Batch(torch.tensor([[[[1.0]]], [[[0.0]]]]), torch.tensor([0, 1]))
    defense = Mixup(MixupConfig(alpha=alpha))
    results = [mixed(defense, batch, seed) for seed in range(600)]
    drawn = [float(result.inputs[0]) for result in results if 0.0 < float(result.inputs[0]) < 1.0]  # the swapped pairs
    assert len(drawn) == pytest.approx(300, abs=60)
    assert kstest(drawn, "beta", args=(alpha, alpha)).pvalue > 1e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(2, 5), st.integers(0, 10_000))
def test_instahide_mixes_k_examples_below_the_bound_and_flips_signs(examples: int, images: int, seed: int) -> None:
    batch = distinct(examples)
    result = mixed(Instahide(InstahideConfig(images=images)), batch, seed)
    weights = result.inputs.view(examples, examples).abs()
    held = min(images, examples)
    assert (weights > 0).sum(1).tolist() == [held] * examples
    assert torch.allclose(weights.sum(1), torch.ones(examples), atol=1e-6)
    assert float(weights.max()) < (0.65 if held > 1 else 1.01)
    assert bool((weights.diagonal() > 0).all())
    assert torch.allclose(result.labels, weights @ nn.functional.one_hot(batch.labels, CLASSES).float(), atol=1e-6)


def test_instahide_signs_are_fair_and_its_own_weight_is_largest_on_average() -> None:
    ones = Batch(torch.ones(4, 1, 50, 50), torch.zeros(4, dtype=torch.long))
    signs = mixed(Instahide(InstahideConfig()), ones).inputs.sign()
    assert float(signs.mean()) == pytest.approx(0.0, abs=0.03)
    assert not torch.equal(signs[0], signs[1])
    weights = torch.stack(
        [mixed(Instahide(InstahideConfig()), distinct(4), s).inputs.view(4, 4).abs() for s in range(300)]
    )
    mean = weights.mean(0)
    others = mean - mean.diagonal().diag()
    assert bool((mean.diagonal() > others.max(1).values).all())


def test_impossible_bounds_are_refused() -> None:
    with pytest.raises(ValidationError, match="hardly add up to 1"):
        InstahideConfig(images=2, largest=0.5)


@pytest.mark.parametrize(("name", "size"), [("mixup", 1), ("instahide", 3)])
def test_batches_that_are_too_small_are_refused(scenario: Build, name: str, size: int) -> None:
    built = scenario(federation={"batch_size": size}, defenses=[{"name": name}])
    with pytest.raises(
        FedsimError, match=rf"'{name}' does not fit: it mixes \d examples of a batch, but a batch holds {size}"
    ):
        build(built).check()


@pytest.mark.parametrize(
    ("name", "federation", "attacks"),
    [
        ("mixup", {}, ["inverting-gradients", "dropout-inversion", "dlg", "mixup-inversion"]),
        ("instahide", {}, ["inverting-gradients", "dropout-inversion"]),
        ("mixup", {"algorithm": "fedavg", "local_steps": 2}, ["sme"]),
    ],
)
def test_probabilities_pass_through_client_replay_attacks_and_scores(
    scenario: Build, tmp_path: Path, name: str, federation: dict[str, Any], attacks: list[str]
) -> None:
    built = scenario(
        federation={"clients": 2, "batch_size": 2, **federation},
        defenses=[{"name": name, **({"images": 2} if name == "instahide" else {})}],
        threat={"knows": ["labels", "batch-size", "dropout-rates", "input-statistics", "defenses"]},
        attacks=[{"name": attack, "max_iterations": 4} for attack in attacks],
    )
    (arm,) = recorded(built, tmp_path / "run").arms
    assert arm.replay_matches
    for attack in arm.attacks:
        (victim,) = attack.victims
        assert victim.failure is None, victim.failure
        assert len(victim.scores) == (2 if not federation else 4)
        assert federation or abs(victim.objective_at_truth or 0.0) < 1e-6
        if attack.name == "dropout-inversion":
            assert victim.masks


def regressed(encodings: Tensor, weights: Tensor) -> Tensor:
    """Return the images (n, P) whose mixtures have the magnitudes |encodings| (m, P) best, over all signs, exactly.

    The regression of Carlini et al. 2021 by brute force: signs of n encodings determine a pixel of all n images, and
    the other encodings tell which signs were right, up to a common one, which the sum of the pixel over images sets
    positive.
    """
    count = weights.shape[1]
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=count))).to(encodings)
    candidates = torch.linalg.solve(weights[:count], signs[:, :, None] * encodings[:count].abs())  # (2^n, n, P)
    errors = ((weights @ candidates).abs() - encodings.abs()).square().sum(1)
    best = candidates[errors.argmin(0), :, torch.arange(encodings.shape[1])].T
    return best * best.sum(0).sign()


def test_encodings_of_the_same_images_give_them_away() -> None:
    """Twelve batches of the same two images in [0, 1], weights known, as clustering gives them: exact images."""
    images = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    batch = Batch(images, torch.tensor([0, 1]))
    encoded = [mixed(Instahide(InstahideConfig(images=2)), batch, seed) for seed in range(12)]
    weights = torch.cat([one.labels[:, :2] for one in encoded])
    encodings = torch.cat([one.inputs for one in encoded]).flatten(1)
    found = regressed(encodings, weights).view_as(images)
    assert float(psnr(found, images).min()) > 80
    single = encoded[0].inputs.abs().clamp(0.0, 1.0)
    assert float(psnr(single, images).max()) < 20
